package stack

import (
	"fmt"
	"io"
	"net/netip"
	"testing"
)

// BenchmarkTCP sends through two stacks and the wire between them.
func BenchmarkTCP(b *testing.B) {
	for _, mtu := range []int{1450, 65520} {
		for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
			b.Run(fmt.Sprintf("mtu_%d/%s", mtu, family(to)), func(b *testing.B) {
				w := pair(b, mtu)
				client, server := connect(b, w, to)
				const chunk = 256 << 10
				b.SetBytes(chunk)
				done := make(chan int64)
				go func() {
					n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, chunk))
					done <- n
				}()
				buf := make([]byte, chunk)
				b.ResetTimer()
				for range b.N {
					if _, err := client.Write(buf); err != nil {
						b.Fatal(err)
					}
				}
				client.CloseWrite()
				if n := <-done; n != int64(b.N)*chunk {
					b.Fatalf("received %d bytes of %d", n, b.N*chunk)
				}
				b.StopTimer()
				b.ReportMetric(float64(w.bytes.Load())/float64(w.packets.Load()), "bytes/packet")
			})
		}
	}
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "v4"
	}
	return "v6"
}

// BenchmarkRoundTrip is one byte there and back over TCP.
func BenchmarkRoundTrip(b *testing.B) {
	w := pair(b, 1450)
	client, server := connect(b, w, addrs4[1])
	go io.CopyBuffer(struct{ io.Writer }{server}, struct{ io.Reader }{server}, make([]byte, 10))
	buf := make([]byte, 1)
	b.ResetTimer()
	for range b.N {
		client.Write(buf)
		if _, err := client.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect opens and closes connections.
func BenchmarkConnect(b *testing.B) {
	w := pair(b, 1450)
	l, err := w.ends[1].Listen("tcp", ":80")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	b.ResetTimer()
	for range b.N {
		c, err := w.ends[0].DialContext(limited(b), "tcp", "10.244.0.2:80")
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkWrite is the cost of handing a datagram to the stack and reading
// it from its socket, without a wire.
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{64, 1400} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, c := receiver(b)
			batch, release := borrow()
			defer release()
			batch.Append(udpFrame(b, true, make([]byte, n)))
			idx := []uint16{0}
			buf := make([]byte, 2000)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				s.Write(batch, idx)
				if _, err := c.(*UDPConn).Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNew is the cost of a pod.
func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		pod(b, 0, 1450).Close()
	}
}
