package port_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// pipePeer is the other end of a pipe.
type pipePeer struct {
	port.Port
	caps   porttest.Caps
	rx, tx *packet.Batch
}

func newPipePeer(p port.Port, caps porttest.Caps) *pipePeer {
	return &pipePeer{Port: p, caps: caps, rx: packet.NewBatch(), tx: packet.NewBatch()}
}

func (e *pipePeer) Caps() porttest.Caps { return e.caps }

func (e *pipePeer) Send(f porttest.Frame) error {
	e.tx.Reset()
	p := e.tx.Append(f.Data)
	p.GSO, p.Flags = f.Meta.GSO, f.Meta.Flags
	p.HdrLen, p.GSOSize, p.CsumStart, p.CsumOffset = f.Meta.HdrLen, f.Meta.GSOSize, f.Meta.CsumStart, f.Meta.CsumOffset
	_, err := e.Write(e.tx, []uint16{0})
	return err
}

func (e *pipePeer) Recv(wait time.Duration) (porttest.Frame, bool) {
	for end := time.Now().Add(wait); ; time.Sleep(50 * time.Microsecond) {
		e.rx.Reset()
		if n, err := e.Read(e.rx, 1); n == 1 {
			p := e.rx.Packets[0]
			return porttest.Frame{Data: bytes.Clone(e.rx.Frame(&p)), Meta: p}, true
		} else if err != nil || !time.Now().Before(end) {
			return porttest.Frame{}, false
		}
	}
}

func openPipe(_ *testing.T, mtu int) (port.Port, porttest.Peer) {
	a, b := port.Pipe(mtu)
	return a, newPipePeer(b, porttest.Caps{Offload: true, Whole: true, Ends: true, Bounded: true, MaxMTU: packet.MaxIP})
}

func TestPipe(t *testing.T) { porttest.Run(t, openPipe) }

// A pipe may live where time is virtual: everything that waits must be seen to
// wait by the bubble.
func TestPipeSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := port.Pipe(1500)
		woken := make(chan struct{}, 16)
		b.Notify(func() { woken <- struct{}{} })
		go func() {
			time.Sleep(time.Hour)
			batch := packet.NewBatch()
			batch.Append(make([]byte, 60))
			a.Write(batch, []uint16{0})
			time.Sleep(time.Hour)
			a.Close()
		}()
		start := time.Now()
		<-woken
		if d := time.Since(start); d != time.Hour {
			t.Errorf("woken after %v, want 1h", d)
		}
		batch := packet.NewBatch()
		if n, err := b.Read(batch, 1); n != 1 || err != nil {
			t.Errorf("Read = %d, %v", n, err)
		}
		<-woken
		if _, err := b.Read(batch, 1); !errors.Is(err, port.ErrClosed) {
			t.Errorf("Read: %v, want %v", err, port.ErrClosed)
		}
	})
}

func TestPipeAllocs(t *testing.T) {
	for _, n := range []int{60, 1500, 65000} {
		a, b := port.Pipe(packet.MaxIP)
		tx, rx := packet.NewBatch(), packet.NewBatch()
		for range 8 {
			tx.Append(make([]byte, n))
		}
		idx := []uint16{0, 1, 2, 3, 4, 5, 6, 7}
		run := func() {
			if sent, err := a.Write(tx, idx); sent != len(idx) || err != nil {
				t.Fatal(sent, err)
			}
			rx.Reset()
			if got, err := b.Read(rx, packet.BatchSize); got != len(idx) || err != nil {
				t.Fatal(got, err)
			}
		}
		run()
		if allocs := testing.AllocsPerRun(200, run); allocs != 0 {
			t.Errorf("%d bytes: %v allocations a batch, want 0", n, allocs)
		}
	}
}

func BenchmarkPipe(b *testing.B) {
	for _, n := range []int{64, 1500, 65536} {
		b.Run(sizeName(n), func(b *testing.B) {
			x, y := port.Pipe(packet.MaxIP)
			tx, rx := packet.NewBatch(), packet.NewBatch()
			idx := make([]uint16, 0, 8)
			for i := range 8 {
				tx.Append(make([]byte, n))
				idx = append(idx, uint16(i))
			}
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(idx) {
				x.Write(tx, idx)
				rx.Reset()
				y.Read(rx, packet.BatchSize)
			}
		})
	}
}

func sizeName(n int) string {
	switch n {
	case 64:
		return "64"
	case 1500:
		return "1500"
	}
	return "64K"
}
