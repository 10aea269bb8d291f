//go:build unix

package port_test

import (
	"io"
	"net"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// pumped opens a port of each kind that works through goroutines and a queue,
// and a connection that is its other end.
var pumped = []struct {
	name   string
	prefix int // bytes before each frame
	open   func(t testing.TB) (port.Port, net.Conn)
}{
	{"stream", 4, func(t testing.TB) (port.Port, net.Conn) {
		l, err := net.Listen("unix", t.TempDir()+"/vm")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p, err := port.DialStream(port.StreamConfig{Path: l.Addr().String(), MTU: 1500})
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return p, c
	}},
	{"dgram", 0, func(t testing.TB) (port.Port, net.Conn) {
		dir := t.TempDir()
		p, err := port.OpenDgram(port.DgramConfig{Path: dir + "/switch", Remote: dir + "/vm", MTU: 1500})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: dir + "/vm", Net: "unixgram"},
			&net.UnixAddr{Name: dir + "/switch", Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return p, c
	}},
}

// Frames go through the goroutines and queues without an allocation each.
func TestPumpAllocs(t *testing.T) {
	for _, tt := range pumped {
		t.Run(tt.name, func(t *testing.T) {
			p, c := tt.open(t)
			defer p.Close()
			defer c.Close()
			const size, frames = 1000, 8
			out, in := packet.NewBatch(), packet.NewBatch()
			var idx []uint16
			for i := range frames {
				out.Append(make([]byte, size))
				idx = append(idx, uint16(i))
			}
			one := make([]byte, tt.prefix+size)
			if tt.prefix > 0 {
				one[2], one[3] = size>>8, size&0xff
			}
			buf := make([]byte, len(one))
			allocs := testing.AllocsPerRun(200, func() {
				if n, err := p.Write(out, idx); n != frames || err != nil {
					t.Fatal(n, err)
				}
				for range frames {
					if _, err := io.ReadFull(c, buf); err != nil {
						t.Fatal(err)
					}
					if _, err := c.Write(one); err != nil {
						t.Fatal(err)
					}
				}
				for got := 0; got < frames; {
					in.Reset()
					n, err := p.Read(in, packet.BatchSize)
					if err != nil {
						t.Fatal(err)
					}
					if got += n; n == 0 {
						time.Sleep(time.Microsecond)
					}
				}
			})
			if allocs > 0 {
				t.Errorf("%v allocations for %d frames each way, want 0", allocs, frames)
			}
		})
	}
}

// BenchmarkStream sends frames of 1514 bytes to a machine that takes them.
func BenchmarkStream(b *testing.B) {
	p, c := pumped[0].open(b)
	defer p.Close()
	defer c.Close()
	const size = 1514
	batch := packet.NewBatch()
	var idx []uint16
	for i := range 32 {
		batch.Append(make([]byte, size))
		idx = append(idx, uint16(i))
	}
	arrived := make(chan int)
	go func() {
		buf := make([]byte, 1<<18)
		total := 0
		for total < b.N*(4+size) {
			n, err := c.Read(buf)
			if total += n; err != nil {
				break
			}
		}
		arrived <- total
	}()
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		n, err := p.Write(batch, idx[:min(len(idx), b.N-sent)])
		if err != nil {
			b.Fatal(err)
		}
		if sent += n; n < len(idx) {
			time.Sleep(10 * time.Microsecond) // the queue is full
		}
	}
	if got := <-arrived; got != b.N*(4+size) {
		b.Errorf("%d bytes arrived of %d frames", got, b.N)
	}
}
