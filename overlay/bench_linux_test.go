package overlay

import (
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// load is what a benchmark sends at once.
type load struct {
	name  string
	frame frame
	size  int // of segments' payload; 0: no superpacket
	count int
	flows uint64
	mixed bool // sizes differ, so that nothing can be merged
}

func loads() []load {
	return []load{
		{"super", tcp4(44 * 1398), 1398, 1, 1, false},
		{"super6", tcp6(44 * 1378), 1378, 1, 1, false},
		{"super_x4", tcp4(44 * 1398), 1398, 4, 1, false},
		{"small", udp4(22), 0, 1, 1, false},
		{"small_x32", udp4(22), 0, 32, 1, false},
		{"small_x32_flows", udp4(22), 0, 32, 4, false},
		{"small_x32_mixed", udp4(22), 0, 32, 1, true},
		{"ack_x32", tcp4(0), 0, 32, 1, false},
		{"full_x32", udp4(1408), 0, 32, 1, false},
	}
}

// batch returns a batch with the load for a peer.
func (c load) batch(peer uint16) (b *packet.Batch, idx []uint16, bytes, datagrams int) {
	b = packet.NewBatch()
	for i := range c.count {
		f := c.frame
		if c.mixed {
			f.payload = f.payload[:len(f.payload)-i%2]
		}
		f.id += uint16(i)
		p := f.append(b, c.size)
		p.Peer, p.Hash = peer, uint64(i)%c.flows<<62
		idx = append(idx, uint16(i))
		bytes += int(p.Len)
		datagrams += p.Segments()
	}
	return b, idx, bytes, datagrams
}

// BenchmarkTransfer sends a load and reads it at the other end, on one thread,
// and says how much of that was Write and Read.
func BenchmarkTransfer(b *testing.B) {
	for _, c := range loads() {
		b.Run(c.name, func(b *testing.B) {
			tx, rx := offloaded(b, Config{}, underlays(b)[0])
			out, idx, bytes, want := c.batch(tx.peer)
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			var writing, reading time.Duration
			for b.Loop() {
				start := time.Now()
				if n, err := tx.Write(out, idx); n != len(idx) || err != nil {
					b.Fatal(n, err, tx.Drops())
				}
				written := time.Now()
				for got := 0; got < want; {
					n, err := rx.Read(rx.in, packet.BatchSize)
					if err != nil {
						b.Fatal(err)
					}
					for i := range rx.in.Packets[:n] {
						got += rx.in.Packets[i].Segments()
					}
					rx.in.Reset()
				}
				writing += written.Sub(start)
				reading += time.Since(written)
			}
			n := float64(b.N) * float64(c.count)
			b.ReportMetric(float64(writing.Nanoseconds())/n, "ns/written")
			b.ReportMetric(float64(reading.Nanoseconds())/n, "ns/read")
		})
	}
}

// BenchmarkBulk streams superpackets from memory to memory, one thread at each
// end, with as many bytes in flight as a stock receive buffer takes. The floor
// is the same with nothing but the system calls: one contiguous message, no
// headers, nothing looked at.
func BenchmarkBulk(b *testing.B) {
	const segments, window = 44, 4
	c := load{frame: tcp4(segments * 1398), size: 1398, count: 1, flows: 1}
	b.Run("link", func(b *testing.B) {
		tx, rx := offloaded(b, Config{RecvBuffer: stockBuffer, SendBuffer: stockBuffer}, underlays(b)[0])
		out, idx, bytes, _ := c.batch(tx.peer)
		bulk(b, bytes, window, func() bool {
			n, err := tx.Write(out, idx)
			return n == 1 && err == nil
		}, func() int {
			got := 0
			n, _ := rx.Read(rx.in, packet.BatchSize)
			for i := range rx.in.Packets[:n] {
				got += rx.in.Packets[i].Segments()
			}
			rx.in.Reset()
			return got
		}, segments)
		if d := rx.Drops(); len(d) != 0 {
			b.Errorf("drops %v", d)
		}
	})
	b.Run("floor", func(b *testing.B) {
		l, err := Listen(Config{Local: netip.MustParseAddrPort("127.0.0.2:0"), Offload: true, RecvBuffer: stockBuffer})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		size := HeaderLen + c.frame.headerLen() + c.size
		send, recv := make([]byte, size*segments), make([]byte, 1<<16)
		to := newSockaddr(l.LocalAddr())
		var out, in mmsghdr
		var outCtl, inCtl control
		*(*uint16)(unsafe.Pointer(outCtl.put(0, unix.SOL_UDP, unix.UDP_SEGMENT, 2))) = uint16(size)
		outIov := iovec{uintptr(unsafe.Pointer(&send[0])), uintptr(len(send))}
		inIov := iovec{uintptr(unsafe.Pointer(&recv[0])), uintptr(len(recv))}
		out.msghdr = msghdr{name: uintptr(unsafe.Pointer(&to.b)), nameLen: to.n, iov: uintptr(unsafe.Pointer(&outIov)), iovLen: 1,
			control: uintptr(unsafe.Pointer(&outCtl)), controlLen: cmsgSpace}
		bulk(b, c.frame.headerLen()+len(c.frame.payload), window, func() bool {
			return sendmsg(l.send[0], &out) == 0
		}, func() int {
			in.msghdr = msghdr{iov: uintptr(unsafe.Pointer(&inIov)), iovLen: 1,
				control: uintptr(unsafe.Pointer(&inCtl)), controlLen: unsafe.Sizeof(inCtl)}
			if recvmsg(l.recv, &in) != 0 {
				return 0
			}
			return int(in.len) / size
		}, segments)
		runtime.KeepAlive(send)
		runtime.KeepAlive(recv)
		runtime.KeepAlive(&to)
	})
}

// bulk runs send b.N times against recv, which returns how many datagrams came.
func bulk(b *testing.B, bytes, window int, send func() bool, recv func() int, segments int) {
	var sent, received atomic.Int64
	done := make(chan struct{})
	b.SetBytes(int64(bytes))
	b.ResetTimer()
	n := int64(b.N)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for got := 0; got < int(n)*segments; {
			if k := recv(); k > 0 {
				got += k
				received.Store(int64(got / segments))
			} else {
				runtime.Gosched()
			}
		}
	}()
	for sent.Load() < n {
		for sent.Load()-received.Load() >= int64(window) {
			runtime.Gosched()
		}
		if !send() {
			b.Fatal("not sent")
		}
		sent.Add(1)
	}
	<-done
	b.ReportMetric(float64(n)*float64(bytes)*8/float64(b.Elapsed().Nanoseconds()), "Gb/s")
}
