package l2

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const (
	alice6 = "fd00::a"
	bob6   = "fd00::b"
	// solicitedBob is the solicited-node address of bob6 (RFC 4291 section 2.7.1).
	solicitedBob = "ff02::1:ff00:b"
)

var full = gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}

// nd builds a frame of neighbor discovery from alice with gopacket.
func nd(t testing.TB, src, dst string, typ uint8, body gopacket.SerializableLayer) []byte {
	ip := &layers.IPv6{
		Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6,
		SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice(),
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	icmp.SetNetworkLayerForChecksum(ip)
	eth := &layers.Ethernet{SrcMAC: alice[:], DstMAC: bob[:], EthernetType: layers.EthernetTypeIPv6}
	return serialize(t, full, eth, ip, icmp, body)
}

func ns(t testing.TB, src, dst, target string, o ...layers.ICMPv6Option) []byte {
	return nd(t, src, dst, NeighborSolicitation, &layers.ICMPv6NeighborSolicitation{TargetAddress: netip.MustParseAddr(target).AsSlice(), Options: o})
}

func na(t testing.TB, src, dst, target string, flags uint8, o ...layers.ICMPv6Option) []byte {
	return nd(t, src, dst, NeighborAdvertisement, &layers.ICMPv6NeighborAdvertisement{Flags: flags, TargetAddress: netip.MustParseAddr(target).AsSlice(), Options: o})
}

func macOption(typ layers.ICMPv6Opt, mac [6]byte) layers.ICMPv6Option {
	return layers.ICMPv6Option{Type: typ, Data: mac[:]}
}

// resum repairs the checksum of a changed frame.
func resum(f []byte) []byte {
	ip := f[14:]
	n := min(int(binary.BigEndian.Uint16(ip[4:])), len(ip)-40)
	m := ip[40 : 40+n]
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], ^oracleSum(ip, n))
	return f
}

// oracleSum is RFC 1071 over the pseudo header and n bytes behind the IPv6
// header, word by word.
func oracleSum(ip []byte, n int) uint16 {
	all := slices.Concat(ip[8:40], []byte{0, 0, byte(n >> 8), byte(n), 0, 0, 0, 58}, ip[40:40+n])
	if len(all)%2 != 0 {
		all = append(all, 0)
	}
	sum := 0
	for i := 0; i < len(all); i += 2 {
		sum += int(all[i])<<8 | int(all[i+1])
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// spoil is a way to break a good message.
type spoil struct {
	name   string
	change func(f []byte) []byte
}

// spoils break every kind of message.
var spoils = []spoil{
	{"empty", func([]byte) []byte { return nil }},
	{"ethernet_only", func(f []byte) []byte { return f[:14] }},
	{"truncated", func(f []byte) []byte { return f[:len(f)-1] }},
	{"ethertype", func(f []byte) []byte { f[13] = 0; return f }},
	{"version", func(f []byte) []byte { f[14] = 0x40; return f }},
	{"hop_limit", func(f []byte) []byte { f[21] = 254; return f }},
	{"next_header", func(f []byte) []byte { f[20] = 44; return f }},
	{"code", func(f []byte) []byte { f[55] = 1; return resum(f) }},
	{"other_type", func(f []byte) []byte { f[54] = 128; return resum(f) }},
	{"checksum", func(f []byte) []byte { f[57] ^= 1; return f }},
	{"payload", func(f []byte) []byte { f[len(f)-1] ^= 1; return f }},
	{"length_too_long", func(f []byte) []byte { f[19]++; return f }},
	{"length_too_short", func(f []byte) []byte { f[18], f[19] = 0, 7; return resum(f) }},
	{"source_multicast", func(f []byte) []byte { f[22] = 0xff; return resum(f) }},
	{"ethernet_source_group", func(f []byte) []byte { f[6] |= 1; return f }},
	{"option_without_length", func(f []byte) []byte { return resum(extend(f, 1, 0, 0, 0, 0, 0, 0, 0)) }},
	{"option_beyond_end", func(f []byte) []byte { return resum(extend(f, 1, 2, 0, 0, 0, 0, 0, 0)) }},
	{"option_stub", func(f []byte) []byte { return resum(extend(f, 1, 1)) }},
}

// extend appends to the message.
func extend(f []byte, b ...byte) []byte {
	binary.BigEndian.PutUint16(f[18:], binary.BigEndian.Uint16(f[18:])+uint16(len(b)))
	return append(f, b...)
}

func header(src, dst string, options ...byte) Header {
	return Header{MAC: alice, Source: addr(src), Destination: addr(dst), Options: options}
}

func TestParseNS(t *testing.T) {
	source := macOption(layers.ICMPv6OptSourceAddress, alice)
	wire := []byte{1, 1, 2, 0, 0, 0, 0, 0xa}
	good := func() []byte { return ns(t, alice6, solicitedBob, bob6, source) }
	for _, c := range []struct {
		name  string
		frame []byte
		want  *NS
	}{
		{"multicast", good(), &NS{header(alice6, solicitedBob, wire...), addr(bob6)}},
		{"unicast", ns(t, alice6, bob6, bob6), &NS{header(alice6, bob6), addr(bob6)}},
		{"probe", ns(t, "::", solicitedBob, bob6), &NS{header("::", solicitedBob), addr(bob6)}},
		{"padded", append(good(), 1, 2, 3), &NS{header(alice6, solicitedBob, wire...), addr(bob6)}},
		{"unknown_option", resum(extend(ns(t, alice6, bob6, bob6), 14, 1, 1, 2, 3, 4, 5, 6)), &NS{header(alice6, bob6, 14, 1, 1, 2, 3, 4, 5, 6), addr(bob6)}},
		{"target_multicast", ns(t, alice6, solicitedBob, "ff02::1"), nil},
		{"probe_unicast", ns(t, "::", bob6, bob6), nil},
		{"probe_all_nodes", ns(t, "::", "ff02::1", bob6), nil},
		{"probe_with_address", ns(t, "::", solicitedBob, bob6, source), nil},
		{"short", resum(func() []byte { f := ns(t, alice6, bob6, bob6); f[19] = 23; return f }()), nil},
		{"advertisement", na(t, alice6, bob6, alice6, 0), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := ParseNS(c.frame)
			check(t, c.want, got, ok)
		})
	}
	refuse(t, good, func(f []byte) bool { _, ok := ParseNS(f); return ok })
}

// check compares what was parsed; nil means that it was to be refused.
func check[T any](t *testing.T, want *T, got T, ok bool) {
	t.Helper()
	if ok != (want != nil) {
		t.Fatalf("ok %v: %+v", ok, got)
	}
	if want == nil {
		want = new(T)
	}
	if d := cmp.Diff(*want, got, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

// refuse spoils a good message in every way.
func refuse(t *testing.T, good func() []byte, parse func([]byte) bool) {
	t.Helper()
	if !parse(good()) {
		t.Fatal("the good message is refused")
	}
	for _, s := range spoils {
		if parse(s.change(good())) {
			t.Errorf("%s: accepted", s.name)
		}
	}
}

func TestParseNA(t *testing.T) {
	option := macOption(layers.ICMPv6OptTargetAddress, alice)
	wire := []byte{2, 1, 2, 0, 0, 0, 0, 0xa}
	good := func() []byte { return na(t, alice6, bob6, alice6, 0x60, option) }
	for _, c := range []struct {
		name  string
		frame []byte
		want  *NA
	}{
		{"solicited", good(), &NA{header(alice6, bob6, wire...), addr(alice6), false, true, true}},
		{"router", na(t, alice6, bob6, alice6, 0xc0), &NA{header(alice6, bob6), addr(alice6), true, true, false}},
		{"unsolicited", na(t, alice6, "ff02::1", alice6, 0x20, option), &NA{header(alice6, "ff02::1", wire...), addr(alice6), false, false, true}},
		{"solicited_multicast", na(t, alice6, "ff02::1", alice6, 0x40), nil},
		{"target_multicast", na(t, alice6, bob6, "ff02::5", 0x40), nil},
		{"unspecified_source", na(t, "::", bob6, alice6, 0x40), nil},
		{"solicitation", ns(t, alice6, bob6, bob6), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := ParseNA(c.frame)
			check(t, c.want, got, ok)
		})
	}
	refuse(t, good, func(f []byte) bool { _, ok := ParseNA(f); return ok })
}

func rs(t testing.TB, src string, o ...layers.ICMPv6Option) []byte {
	return nd(t, src, "ff02::2", RouterSolicitation, &layers.ICMPv6RouterSolicitation{Options: o})
}

func TestParseRS(t *testing.T) {
	source := macOption(layers.ICMPv6OptSourceAddress, alice)
	good := func() []byte { return rs(t, "fe80::a", source) }
	for _, c := range []struct {
		name  string
		frame []byte
		want  *RS
	}{
		{"link_local", good(), &RS{header("fe80::a", "ff02::2", 1, 1, 2, 0, 0, 0, 0, 0xa)}},
		{"unspecified", rs(t, "::"), &RS{header("::", "ff02::2")}},
		{"unspecified_with_address", rs(t, "::", source), nil},
		{"other", ns(t, alice6, bob6, bob6), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := ParseRS(c.frame)
			check(t, c.want, got, ok)
		})
	}
	refuse(t, good, func(f []byte) bool { _, ok := ParseRS(f); return ok })
}

// prefixOption is fd00::/64, on link, autonomous, for 600 and 300 seconds.
var prefixOption = layers.ICMPv6Option{Type: layers.ICMPv6OptPrefixInfo, Data: slices.Concat(
	[]byte{64, 0xc0, 0, 0, 2, 0x58, 0, 0, 1, 0x2c, 0, 0, 0, 0, 0xfd, 0}, make([]byte, 14))}

func ra(t testing.TB, src string, o ...layers.ICMPv6Option) []byte {
	return nd(t, src, "ff02::1", RouterAdvertisement, &layers.ICMPv6RouterAdvertisement{
		HopLimit: 64, Flags: 0xc0, RouterLifetime: 1800, ReachableTime: 30000, RetransTimer: 1000, Options: o,
	})
}

func TestParseRA(t *testing.T) {
	mtu := layers.ICMPv6Option{Type: layers.ICMPv6OptMTU, Data: []byte{0, 0, 0, 0, 5, 0xaa}}
	tooLong := layers.ICMPv6Option{Type: layers.ICMPv6OptPrefixInfo, Data: append([]byte{129}, prefixOption.Data[1:]...)}
	good := func() []byte {
		return ra(t, "fe80::a", macOption(layers.ICMPv6OptSourceAddress, alice), mtu, tooLong, prefixOption)
	}
	got, ok := ParseRA(good())
	if !ok {
		t.Fatal("refused")
	}
	want := RA{Header: header("fe80::a", "ff02::1"), HopLimit: 64, Managed: true, Other: true, Lifetime: 1800, Reachable: 30000, Retransmit: 1000}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Header{}, "Options")); d != "" {
		t.Error(d)
	}
	if mac, ok := got.Options.MAC(SourceMAC); !ok || mac != alice {
		t.Errorf("MAC %x %v", mac, ok)
	}
	if _, ok := got.Options.MAC(TargetMAC); ok {
		t.Error("a target MAC that is not there")
	}
	if mtu, ok := got.Options.MTU(); !ok || mtu != 1450 {
		t.Errorf("MTU %d %v", mtu, ok)
	}
	prefixes := slices.Collect(got.Options.Prefixes())
	wantPrefix := []Prefix{{Prefix: netip.MustParsePrefix("fd00::/64"), OnLink: true, Autonomous: true, Valid: 600, Preferred: 300}}
	if d := cmp.Diff(wantPrefix, prefixes, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for range got.Options.Prefixes() {
		break // an early end is no panic
	}
	if _, ok := ParseRA(ra(t, alice6)); ok {
		t.Error("accepted a source that is not link-local")
	}
	if o := got.Options[:0]; o.has(SourceMAC) {
		t.Error("no options have one")
	}
	refuse(t, good, func(f []byte) bool { _, ok := ParseRA(f); return ok })
}

func TestAdvertise(t *testing.T) {
	bobTarget := macOption(layers.ICMPv6OptTargetAddress, bob)
	carol := [6]byte{2, 0, 0, 0, 0, 0xc}
	for _, c := range []struct {
		name   string
		ask    []byte
		router bool
		want   []byte // but for the Ethernet addresses
		dst    [6]byte
	}{
		{"solicited", ns(t, alice6, solicitedBob, bob6), false, na(t, bob6, alice6, bob6, 0x60, bobTarget), alice},
		{"router", ns(t, alice6, bob6, bob6), true, na(t, bob6, alice6, bob6, 0xe0, bobTarget), alice},
		{"named", ns(t, alice6, bob6, bob6, macOption(layers.ICMPv6OptSourceAddress, carol)), false, na(t, bob6, alice6, bob6, 0x60, bobTarget), carol},
		{"named_group", ns(t, alice6, bob6, bob6, macOption(layers.ICMPv6OptSourceAddress, broadcast)), false, na(t, bob6, alice6, bob6, 0x60, bobTarget), alice},
		{"probe", ns(t, "::", solicitedBob, bob6), false, na(t, bob6, "ff02::1", bob6, 0x20, bobTarget), [6]byte{0x33, 0x33, 0, 0, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, ok := ParseNS(c.ask)
			if !ok {
				t.Fatal("solicitation refused")
			}
			buf := bytes.Repeat([]byte{0xee}, 200)
			f := n.Advertise(buf, bob, c.router)
			want := bytes.Clone(c.want)
			copy(want, c.dst[:])
			copy(want[6:], bob[:])
			if !bytes.Equal(f, want) {
				t.Errorf("got  %x\nwant %x", f, want)
			}
			if a, ok := ParseNA(f); !ok || a.Target != addr(bob6) || a.Router != c.router || !a.Override || a.Solicited == n.Probe() {
				t.Errorf("%+v %v", a, ok)
			}
			if len(f) != AdvertisementLen || buf[len(f)] != 0xee {
				t.Error("wrote behind the frame")
			}
		})
	}
}

func TestUnsolicitedNA(t *testing.T) {
	for _, router := range []bool{false, true} {
		f := UnsolicitedNA(bytes.Repeat([]byte{0xee}, AdvertisementLen), bob, addr(bob6), router)
		flags := uint8(0x20)
		if router {
			flags = 0xa0
		}
		want := na(t, bob6, "ff02::1", bob6, flags, macOption(layers.ICMPv6OptTargetAddress, bob))
		copy(want, []byte{0x33, 0x33, 0, 0, 0, 1})
		copy(want[6:], bob[:])
		if !bytes.Equal(f, want) {
			t.Errorf("got  %x\nwant %x", f, want)
		}
	}
}

func TestNDAllocates(t *testing.T) {
	source := macOption(layers.ICMPv6OptSourceAddress, alice)
	solicit, advert := ns(t, alice6, solicitedBob, bob6, source), na(t, alice6, bob6, alice6, 0x60)
	router, ask := ra(t, "fe80::a", source, prefixOption), rs(t, "fe80::a", source)
	buf := make([]byte, 128)
	if n := testing.AllocsPerRun(100, func() {
		n, _ := ParseNS(solicit)
		n.Advertise(buf, bob, true)
		ParseNA(advert)
		ParseRS(ask)
		r, _ := ParseRA(router)
		r.Options.MTU()
		UnsolicitedNA(buf, bob, n.Target, false)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
