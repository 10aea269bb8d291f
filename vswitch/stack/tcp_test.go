package stack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"vswitch/vswitch/packet"
)

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connect returns both ends of a connection from stack 0 to stack 1.
func connect(t testing.TB, w *wire, to netip.Addr) (client, server *TCPConn) {
	t.Helper()
	l, err := w.ends[1].Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	address := netip.AddrPortFrom(to, uint16(l.Addr().(*net.TCPAddr).Port)).String()
	c, err := w.ends[0].DialContext(limited(t), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := <-accepted
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*TCPConn), s.(*TCPConn)
}

// bulk sends n random bytes each way at once and compares the hashes.
func bulk(t *testing.T, a, b *TCPConn, n int64) {
	t.Helper()
	var wg sync.WaitGroup
	way := func(name string, from, to *TCPConn, seed byte) {
		sent, got := sha256.New(), sha256.New()
		wg.Go(func() {
			src := io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(from, sent)}, src, make([]byte, 256<<10)); err != nil {
				t.Errorf("%s: send: %v", name, err)
			}
			if err := from.CloseWrite(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		received := make(chan int64, 1)
		wg.Go(func() {
			m, err := io.CopyBuffer(got, struct{ io.Reader }{to}, make([]byte, 256<<10))
			if err != nil {
				t.Errorf("%s: receive: %v", name, err)
			}
			received <- m
		})
		t.Cleanup(func() {
			if m := <-received; m != n || string(sent.Sum(nil)) != string(got.Sum(nil)) {
				t.Errorf("%s: received %d bytes of %d, or other ones", name, m, n)
			}
		})
	}
	way("there", a, b, 1)
	way("back", b, a, 2)
	wg.Wait()
}

func TestTCPBulk(t *testing.T) {
	for _, mtu := range []int{1450, 65520} {
		for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
			t.Run(fmt.Sprintf("mtu_%d/%v", mtu, to), func(t *testing.T) {
				w := pair(t, mtu)
				a, b := connect(t, w, to)
				bulk(t, a, b, 16<<20)
				if got, want := w.super.Load(), int64(100); mtu == 1450 && got < want {
					t.Errorf("%d superpackets crossed, want %d or more", got, want)
				}
				if n := w.packets.Load(); n > 20000 {
					t.Errorf("%d packets for 32 MiB; they did not stay whole", n)
				}
			})
		}
	}
}

// TestSuperpackets looks at what a superpacket says of itself.
func TestSuperpackets(t *testing.T) {
	for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		t.Run(to.String(), func(t *testing.T) {
			w := &wire{ends: [2]*Stack{pod(t, 0, 1450), pod(t, 1, 1450)}}
			var largest uint32
			var mu sync.Mutex
			w.see = func(_ int, b *packet.Batch, p *packet.Packet) {
				mu.Lock()
				defer mu.Unlock()
				largest = max(largest, p.Len)
				b.Parse(p)
				if p.Class != packet.Flow || p.Tuple.Proto != packet.ProtoTCP {
					return
				}
				if p.WireLen() > 1450 {
					t.Errorf("a segment of %d bytes, MTU 1450", p.WireLen())
				}
				if p.GSO == packet.GSONone {
					p.HdrLen = 0
				} else if p.Flags&packet.NeedsCsum == 0 || p.CsumStart != p.L4 || p.CsumOffset != 16 || p.Segments() < 2 {
					t.Errorf("superpacket %+v", *p)
				}
				if n := p.Segments(); n > 63 || n*8+(n-1)*int(p.HdrLen)+int(p.Len) > overlaySend {
					t.Errorf("superpacket of %d segments, %d bytes is more than one send of the overlay", n, p.Len)
				}
				checkComplete(t, b, p)
			}
			w.run(t)
			c, s := connect(t, w, to)
			bulk(t, c, s, 4<<20)
			mu.Lock()
			defer mu.Unlock()
			if largest < 50000 {
				t.Errorf("largest packet has %d bytes", largest)
			}
		})
	}
}

// checkComplete fails if a segment of p does not have the right checksum once
// it is completed.
func checkComplete(t *testing.T, b *packet.Batch, p *packet.Packet) {
	one, releaseOne := borrow()
	defer releaseOne()
	copied, release := borrow()
	defer release()
	scratch := make([]byte, packet.MaxFrame)
	copied.Each(clone(copied, b, p), scratch, func(f []byte) {
		one.Reset()
		o := one.Append(f)
		one.Parse(o)
		if o.Class == packet.Flow && !one.VerifyTransport(o) {
			t.Errorf("wrong checksum: %v, %d bytes", o.Tuple, o.Len)
		}
	})
}

// TestTCPTrains: segments that lie apart in memory arrive whole.
func TestTCPTrains(t *testing.T) {
	for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		t.Run(to.String(), func(t *testing.T) {
			w := &wire{ends: [2]*Stack{pod(t, 0, 1450), pod(t, 1, 1450)}}
			w.send = w.trains
			w.run(t)
			a, b := connect(t, w, to)
			bulk(t, a, b, 4<<20)
			if w.super.Load() == 0 {
				t.Error("no superpacket crossed")
			}
		})
	}
}

// TestTCPSegments: ordinary frames with complete checksums are verified; those
// that were damaged on the way are lost, and sent again.
func TestTCPSegments(t *testing.T) {
	for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		for _, damaged := range []int{1000, 200} { // one in so many
			t.Run(fmt.Sprintf("%v/%d", to, damaged), func(t *testing.T) {
				w := &wire{ends: [2]*Stack{pod(t, 0, 1450), pod(t, 1, 1450)}}
				w.send = func(from int, b *packet.Batch) { w.segments(from, b, damaged) }
				w.run(t)
				a, b := connect(t, w, to)
				bulk(t, a, b, 4<<20)
			})
		}
	}
}

// segments cuts superpackets, and damages one of so many segments.
func (w *wire) segments(from int, b *packet.Batch, damaged int) {
	out, release := borrow()
	defer release()
	scratch := make([]byte, packet.MaxFrame)
	for i := range b.Packets {
		b.Each(&b.Packets[i], scratch, func(f []byte) {
			if len(out.Packets) == packet.BatchSize {
				w.write(from, out)
				out.Reset()
			}
			f = out.Frame(out.Append(f))
			if rand.IntN(damaged) == 0 && len(f) > 54 {
				f[54+rand.IntN(len(f)-54)] ^= 1 << rand.IntN(8)
			}
		})
	}
	w.write(from, out)
}

func TestTCPRefused(t *testing.T) {
	w := pair(t, 1450)
	for _, to := range []netip.Addr{addrs4[1], addrs6[1], addrs4[0]} {
		c, err := w.ends[0].DialContext(limited(t), "tcp", netip.AddrPortFrom(to, 9).String())
		if err == nil {
			c.Close()
		}
		want := fmt.Sprintf("dial tcp %v: connect: connection refused", netip.AddrPortFrom(to, 9))
		if err == nil || err.Error() != want || !errors.Is(err, refused) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
}

func TestTCPReset(t *testing.T) {
	w := pair(t, 1450)
	a, b := connect(t, w, addrs4[1])
	if _, err := a.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := b.Read(buf); err != nil {
		t.Fatal(err)
	}
	b.Close() // with unread data: a reset
	a.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := a.Read(buf); !errors.Is(err, reset) {
		t.Errorf("read after reset: %v", err)
	}
}

func TestTCPDeadlines(t *testing.T) {
	w := pair(t, 1450)
	a, _ := connect(t, w, addrs6[1])
	a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := a.Read(make([]byte, 1))
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("read: %v, want a timeout", err)
	}
	a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err = nil; err == nil; {
		_, err = a.Write(make([]byte, 1<<20)) // nobody reads
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v, want a timeout", err)
	}
}

func TestTCPAddresses(t *testing.T) {
	w := pair(t, 1450)
	for i, to := range []netip.Addr{addrs4[1], addrs6[1]} {
		a, b := connect(t, w, to)
		from := []netip.Addr{addrs4[0], addrs6[0]}[i]
		if got := a.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != from {
			t.Errorf("client's address %v, want %v", got, from)
		}
		if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
			t.Errorf("ends disagree: %v %v, %v %v", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
		}
		a.Close()
		if a.LocalAddr() == nil || a.RemoteAddr() == nil {
			t.Error("a closed connection does not know its addresses")
		}
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := a.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
	}
}

func TestHTTP(t *testing.T) {
	w := pair(t, 1450)
	l, err := w.ends[1].Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "hello %s", r.RemoteAddr[:4])
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	client := http.Client{Transport: &http.Transport{DialContext: w.ends[0].DialContext}, Timeout: time.Minute}
	resp, err := client.Get("http://10.244.0.2/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "hello 10.2" {
		t.Errorf("body %q", body)
	}
	srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	client.CloseIdleConnections()
}
