package dns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/dns"
)

// oneDatagram is a socket that receives one datagram, and keeps what is sent.
type oneDatagram struct {
	mu     sync.Mutex
	in     []byte
	out    [][]byte
	read   func() // called when the datagram has been taken
	closed chan struct{}
	once   sync.Once
}

func (c *oneDatagram) ReadFrom(b []byte) (int, net.Addr, error) {
	if in := c.in; in != nil {
		c.in = nil
		return copy(b, in), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4000}, nil
	}
	c.read()
	<-c.closed
	return 0, nil, net.ErrClosed
}

func (c *oneDatagram) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out, slices.Clone(b))
	return len(b), nil
}

func (c *oneDatagram) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *oneDatagram) LocalAddr() net.Addr { return &net.UDPAddr{} }
func (c *oneDatagram) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) { // how a server is told to stop
		return c.Close()
	}
	return nil
}
func (c *oneDatagram) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *oneDatagram) SetWriteDeadline(time.Time) error { return nil }

// viaUDP returns the datagrams that a server sends for one that it receives.
func viaUDP(t *testing.T, s *dns.Server, in []byte) [][]byte {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &oneDatagram{in: in, read: cancel, closed: make(chan struct{})}
	if err := s.ServePacket(ctx, c); err != nil {
		t.Fatal(err)
	}
	return c.out
}

// viaTCP returns the messages that a server sends for a stream that it receives.
func viaTCP(t *testing.T, s *dns.Server, in []byte) (out [][]byte) {
	ctx, cancel := context.WithCancel(t.Context())
	client, server := net.Pipe()
	done := make(chan error)
	go func() {
		done <- s.ServeListener(ctx, newPipes(server))
	}()
	received := make(chan error)
	go func() {
		var err error
		for err == nil {
			var n uint16
			if err = binary.Read(client, binary.BigEndian, &n); err == nil {
				b := make([]byte, n)
				_, err = io.ReadFull(client, b)
				out = append(out, b)
			}
		}
		received <- err
	}()
	_, _ = client.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(in))), in...))
	// A second message, which is not one, shows that the first has been answered.
	_, _ = client.Write([]byte{0, 1, 0})
	client.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-received; !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return out
}

// FuzzServer sends any bytes to a server, over UDP and TCP. What comes back is one
// answer to it, of a size that its sender takes, or nothing.
func FuzzServer(f *testing.F) {
	z := someZone(f)
	add := func(m *wire.Msg) {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, name := range []string{"web.shop.svc.cluster.local.", "many.shop.svc.cluster.local.", "out.shop.svc.cluster.local.", "no.svc.cluster.local.",
		"_http._tcp.many.shop.svc.cluster.local.", "10-244-0-1.many.shop.svc.cluster.local.", "1.0.244.10.in-addr.arpa.", "244.10.in-addr.arpa.", "example.test.",
		`a\.b.cluster.local.`, "cluster.local.", "."} {
		for _, qtype := range []uint16{wire.TypeA, wire.TypeSRV, wire.TypePTR, wire.TypeANY} {
			m := question(name, qtype)
			add(m)
			m.SetEdns0(600, true)
			add(m)
		}
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))                 // a name that is itself
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\xc0\x0c\x00\x01\x00\x01"))            // and one that never ends
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"))                                         // a question that is not there
	f.Add([]byte("\x00\x01\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff"))                                         // counts without records
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x02\x00\x00\x01\x00\x01\x00\x00\x29\xff\xff")) // an OPT record that is cut
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4096 {
			return
		}
		s := dns.NewServer(z, dns.ServerConfig{})
		check(t, in, viaUDP(t, s, in), true)
		check(t, in, viaTCP(t, s, in), false)
	})
}

func check(t *testing.T, in []byte, out [][]byte, udp bool) {
	t.Helper()
	if len(out) > 1 {
		t.Fatalf("%d answers", len(out))
	}
	if len(out) == 0 {
		if len(in) >= 12 && in[2]&0x80 == 0 && udp {
			t.Fatalf("no answer to %x", in)
		}
		return
	}
	got := out[0]
	if len(in) < 12 || in[2]&0x80 != 0 || got[0] != in[0] || got[1] != in[1] || got[2]&0x80 == 0 {
		t.Fatalf("%x is answered with %x", in, got)
	}
	var q, r wire.Msg
	if err := r.Unpack(got); err != nil {
		t.Fatalf("%x is answered with %x: %v", in, got, err)
	}
	size := 512
	if q.Unpack(in) == nil && q.IsEdns0() != nil {
		size = min(max(size, int(q.IsEdns0().UDPSize())), 1232)
	}
	if udp && len(got) > size {
		t.Fatalf("%d bytes, of %d that are taken", len(got), size)
	}
	for _, a := range r.Answer {
		if len(r.Question) != 1 || a.Header().Name != r.Question[0].Name && r.Answer[0].Header().Rrtype != wire.TypeCNAME {
			t.Fatalf("%v answers another question", a)
		}
	}
}

// FuzzUpstream gets any bytes from an upstream.
func FuzzUpstream(f *testing.F) {
	q := question("a.test.", wire.TypeA)
	for _, m := range []*wire.Msg{reply(q, 0, "a.test. 5 A 198.51.100.1"), reply(q, 3, "", "test. 5 SOA a. b. 1 2 3 4 5")} {
		b, _ := m.Pack()
		f.Add(b[2:])
	}
	z := someZone(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4000 {
			return
		}
		fw := dns.NewForwarder(dns.ForwarderConfig{
			Upstreams: []netip.AddrPort{netip.MustParseAddrPort(up1)},
			Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
				if network == "tcp" {
					return nil, errors.New("refused")
				}
				return &echoing{data: data}, nil
			},
		})
		defer fw.Close()
		s := dns.NewServer(z, dns.ServerConfig{Forwarder: fw})
		for range 2 { // the second answer may be from the cache
			r := s.Reply(t.Context(), q, netip.AddrPort{}, true)
			if b, err := r.Pack(); err == nil && len(b) > 512 {
				t.Fatalf("%d bytes", len(b))
			}
		}
	})
}

// echoing is a socket that answers every query with its id and some bytes, once.
type echoing struct {
	oneDatagram
	data, next []byte
}

func (e *echoing) Write(b []byte) (int, error) {
	e.next = append(slices.Clone(b[:2]), e.data...)
	return len(b), nil
}

func (e *echoing) Read(b []byte) (int, error) {
	if e.next == nil {
		return 0, io.EOF
	}
	n := copy(b, e.next)
	e.next = nil
	return n, nil
}

func (e *echoing) Close() error                { return nil }
func (e *echoing) RemoteAddr() net.Addr        { return &net.UDPAddr{} }
func (e *echoing) SetDeadline(time.Time) error { return nil }

// FuzzZone asks a zone for any name, by its own method. What a message can ask for is
// there if it was written down, or is above something that was.
func FuzzZone(f *testing.F) {
	state, cfg := someState(f)
	z := zoneOf(f, state, cfg.ClusterCIDRs)
	there := map[string]bool{}
	apexes := []string{"cluster.local.", "244.10.in-addr.arpa.", "0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa."}
	for _, n := range slices.AppendSeq(append(apexes, "ns.dns.cluster.local.", "dns-version.cluster.local."), maps.Keys(write(state))) {
		for ; n != ""; _, n, _ = strings.Cut(n, ".") {
			there[n] = true
		}
	}
	for _, n := range []string{"web.shop.svc.cluster.local.", "..web.shop.svc.cluster.local.", "1.0.244.10.in-addr.arpa.", "f.f.ip6.arpa.", ".", "", `\`, "..",
		".cluster.local.", "pod.cluster.local.", "10-244-0-1.many.shop.svc.cluster.local.", "10:244:0:1.many.shop.svc.cluster.local.", "10.244.0.1.shop.pod.cluster.local."} {
		f.Add(n, uint16(1))
	}
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		a, ours := z.Answer(dns.Question{Name: name, Type: qtype, Size: 512})
		lower := strings.ToLower(name)
		if inside := slices.ContainsFunc(apexes, func(apex string) bool { return lower == apex || strings.HasSuffix(lower, "."+apex) }); ours && !inside {
			t.Fatalf("%q is ours: %+v", name, a)
		}
		if ours && onTheWire(name) && (a.Rcode == wire.RcodeSuccess) != there[lower] {
			t.Fatalf("%q: %s, but it is there: %v", name, wire.RcodeToString[a.Rcode], there[lower])
		}
		if ours && len(a.Answer) == 0 && len(a.Authority) != 1 {
			t.Fatalf("%q: nothing, and no SOA", name)
		}
		if len(a.Answer) > 64 {
			t.Fatalf("%q: %d records", name, len(a.Answer))
		}
	})
}

// onTheWire reports whether a message can have a name of this form.
func onTheWire(name string) bool {
	b := make([]byte, 256)
	n, err := wire.PackDomainName(name, b, 0, nil, false)
	if err != nil {
		return false
	}
	back, _, err := wire.UnpackDomainName(b[:n], 0)
	return err == nil && back == name
}
