package dns_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vswitch/vswitch/dns"
)

func addrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestReadResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	for _, k := range []struct {
		content string
		want    []netip.AddrPort
	}{
		{"", nil},
		{"search example.com\noptions ndots:5\n", nil},
		{"# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n", addrPorts("192.0.2.1:53", "[2001:db8::1]:53")},
		{"nameserver fe80::1%eth0\nnameserver nonsense\n", addrPorts("[fe80::1%eth0]:53")},
		{"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", addrPorts("192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53")},
	} {
		if err := os.WriteFile(file, []byte(k.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := dns.ReadResolvConf(file); err != nil || !slices.Equal(got, k.want) {
			t.Errorf("%q: %v, %v; want %v", k.content, got, err, k.want)
		}
	}
	if _, err := dns.ReadResolvConf(file + ".not"); err == nil {
		t.Error("a file that is not there has been read")
	}
}

// TestFollowResolvConf: upstreams are those of the file as it is now, and what is
// not a list of resolvers changes nothing.
func TestFollowResolvConf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	synctest.Test(t, func(t *testing.T) {
		f := dns.NewForwarder(dns.ForwarderConfig{})
		defer f.Close()
		ctx, cancel := context.WithCancel(t.Context())
		told := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			dns.FollowResolvConf(ctx, file, f, func(list []netip.AddrPort) []netip.AddrPort {
				told++
				return list
			})
		}()
		synctest.Wait()
		if got := f.Upstreams(); len(got) != 0 {
			t.Error(got)
		}
		for i, content := range []string{"nameserver 192.0.2.1\n", "nameserver 192.0.2.11\n", "nameserver 192.0.2.111 \n", "", "search x\n"} {
			// As others write it: beside, and then in its place.
			if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2500 * time.Millisecond)
			synctest.Wait()
			want := addrPorts(fmt.Sprintf("192.0.2.%s:53", "111"[:min(i+1, 3)]))
			if got := f.Upstreams(); !slices.Equal(got, want) {
				t.Errorf("with %q: %v, want %v", content, got, want)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		cancel()
		<-done
		if told != 3 {
			t.Errorf("told of %d changes, want 3", told)
		}
	})
}
