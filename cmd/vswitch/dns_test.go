package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestListenFamilies: an IPv4 address is IPv4 alone, even 0.0.0.0; :PORT is all that
// the machine has.
func TestListenFamilies(t *testing.T) {
	for listen, six := range map[string]bool{"0.0.0.0:0": false, "127.0.0.1:0": false, "[::ffff:0.0.0.0]:0": false, ":0": true} {
		at, err := parseListen(listen)
		if err != nil {
			t.Fatal(err)
		}
		packets, connections, err := listenDNS(at)
		if err != nil {
			t.Fatal(err)
		}
		port := packets.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		over4, err := net.Dial("tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
		if err != nil {
			t.Errorf("--listen %s: %v", listen, err)
		} else {
			over4.Close()
		}
		for _, local := range []net.Addr{packets.LocalAddr(), connections.Addr()} {
			if bound := netip.MustParseAddrPort(local.String()); bound.Addr().Is4() == six && hasIPv6() {
				t.Errorf("--listen %s: %s socket is bound to %s", listen, local.Network(), local)
			}
		}
		packets.Close()
		connections.Close()
	}
}

// hasIPv6 reports whether this machine has any IPv6.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func TestIsSelf(t *testing.T) {
	for _, k := range []struct {
		upstream, self string
		want           bool
	}{
		{"127.0.0.1:53", "127.0.0.1:53", true},
		{"127.0.0.1:54", "127.0.0.1:53", false},
		{"127.0.0.2:53", "127.0.0.1:53", false},
		{"[::ffff:127.0.0.1]:53", "127.0.0.1:53", true},
		{"0.0.0.0:53", "127.0.0.1:53", true},
		{"0.0.0.0:53", "192.0.2.1:53", false},
		{"[::]:53", "[::1]:53", true},
		{"[::1]:53", "[::1]:53", true},
		{"[::1]:53", "127.0.0.1:53", false},
		{"127.0.0.2:53", "0.0.0.0:53", true},
		{"0.0.0.0:53", "0.0.0.0:53", true},
		{"[::1]:53", "0.0.0.0:53", false},
		{"[::1]:53", "[::]:53", true},
		{"127.0.0.1:53", "[::]:53", true},
		{"[::ffff:127.0.0.2]:53", "[::]:53", true},
		{"192.0.2.1:53", "[::]:53", false},
	} {
		if got := isSelf(netip.MustParseAddrPort(k.upstream), netip.MustParseAddrPort(k.self)); got != k.want {
			t.Errorf("upstream %s of a server at %s: %v", k.upstream, k.self, got)
		}
	}
}

func TestUpstreamsGiven(t *testing.T) {
	self := netip.MustParseAddrPort("127.0.0.1:1053")
	for _, k := range []struct {
		given   []string
		refuses bool
		list    string // or what the error has
	}{
		{nil, false, ""},
		{[]string{"none"}, true, ""},
		{[]string{"none", "none"}, true, ""},
		{[]string{"none", "192.0.2.1"}, false, "cannot go with others"},
		{[]string{"192.0.2.1", "none"}, false, "cannot go with others"},
		{[]string{"192.0.2.1", "::ffff:192.0.2.2", "[::ffff:192.0.2.3]:5353"}, false, "192.0.2.1:53, 192.0.2.2:53, 192.0.2.3:5353"},
	} {
		o := dnsOptions{upstreams: k.given}
		list, err := o.given(self)
		if err != nil {
			if k.list == "" || !strings.Contains(err.Error(), k.list) {
				t.Errorf("%q: %v", k.given, err)
			}
			continue
		}
		if got := joinAddrPorts(list); got != k.list || refused(k.given) != k.refuses {
			t.Errorf("%q: %s, refuses: %v", k.given, got, refused(k.given))
		}
	}
}

func TestWriteUpstreams(t *testing.T) {
	for list, want := range map[string]string{
		"192.0.2.1:53": "/etc/resolv.conf has changed: upstream 192.0.2.1:53\n",
		"":             "/etc/resolv.conf has changed: no upstream any more; names outside the cluster are not resolved\n",
	} {
		var out strings.Builder
		var addrs []netip.AddrPort
		if list != "" {
			addrs = append(addrs, netip.MustParseAddrPort(list))
		}
		if writeUpstreams(&out, addrs); out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}

// TestParseListen: an IPv4 address written as one of IPv6 is one, also where it is
// the name server's.
func TestParseListen(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:53": "127.0.0.1:53", "[::ffff:127.0.0.1]:53": "127.0.0.1:53", ":53": "[::]:53", "[::1]:53": "[::1]:53", "[fe80::1%lo]:53": "[fe80::1%lo]:53",
	} {
		if a, err := parseListen(text); err != nil || a.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, a, err, want)
		}
	}
}
