package port_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// streamPeer is a virtual machine at the other end of a stream.
type streamPeer struct {
	net.Conn
	caps porttest.Caps
	got  []byte // received and not yet cut
	// again connects anew, after the port has hung up; nil if the port ends then.
	again func(t *testing.T)
}

var streamCaps = porttest.Caps{Bounded: true, Waits: true, MaxMTU: packet.MaxIP}

func (s *streamPeer) Caps() porttest.Caps { return s.caps }

func (s *streamPeer) Send(f porttest.Frame) error { return s.raw(uint32(len(f.Data)), f.Data) }

// raw sends a length prefix and bytes, which need not agree.
func (s *streamPeer) raw(n uint32, data []byte) error {
	_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, n), data...))
	return err
}

func (s *streamPeer) Recv(wait time.Duration) (porttest.Frame, bool) {
	s.SetReadDeadline(time.Now().Add(wait + time.Millisecond))
	for {
		if len(s.got) >= 4 {
			if n := 4 + int(binary.BigEndian.Uint32(s.got)); len(s.got) >= n {
				f := porttest.Frame{Data: s.got[4:n:n]}
				s.got = s.got[n:]
				return f, true
			}
		}
		var buf [65536]byte
		n, err := s.Read(buf[:])
		if err != nil {
			return porttest.Frame{}, false
		}
		s.got = append(s.got, buf[:n]...)
	}
}

func (s *streamPeer) Nonsense(t *testing.T) uint64 {
	send := func(n uint32, data []byte) {
		if err := s.raw(n, data); err != nil {
			t.Fatalf("peer: %v", err)
		}
	}
	send(0, nil)
	send(13, make([]byte, 13))
	send(packet.MaxFrame+1, make([]byte, packet.MaxFrame+1))
	send(4096+65536, make([]byte, 4096+65536))
	if s.again == nil {
		return 4
	}
	send(0xffffffff, []byte("no frame is this long"))
	s.hungUp(t)
	s.again(t)
	send(100, make([]byte, 50)) // breaks off
	s.Conn.(*net.UnixConn).CloseWrite()
	s.hungUp(t)
	s.again(t)
	return 6
}

// hungUp waits until the port closes the connection. One that came earlier
// would take its place before the port has read all.
func (s *streamPeer) hungUp(t *testing.T) {
	s.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, s.Conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the port keeps a connection that is out of step")
	}
	s.Close()
}

func openListenStream(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	p, err := port.ListenStream(port.StreamConfig{Path: path, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	s := &streamPeer{caps: streamCaps}
	s.again = func(t *testing.T) {
		if s.Conn, err = net.Dial("unix", path); err != nil {
			t.Fatal(err)
		}
		s.got = nil
		greet(t, p, s)
	}
	s.again(t)
	return p, s
}

// greet sends a frame through the port until it comes, so that the port knows
// its peer.
func greet(t *testing.T, p port.Port, peer porttest.Peer) {
	t.Helper()
	b := packet.NewBatch()
	for range 5000 {
		if err := peer.Send(porttest.Frame{Data: make([]byte, 60)}); err == nil {
			time.Sleep(time.Millisecond)
			b.Reset()
			if n, _ := p.Read(b, packet.BatchSize); n > 0 {
				for n > 0 { // a frame of an earlier try may come late
					time.Sleep(2 * time.Millisecond)
					b.Reset()
					n, _ = p.Read(b, packet.BatchSize)
				}
				return
			}
		}
	}
	t.Fatal("the port does not see its peer")
}

func openDialStream(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := port.DialStream(port.StreamConfig{Path: path, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	caps := streamCaps
	caps.Ends = true
	return p, &streamPeer{Conn: c, caps: caps}
}

func TestListenStream(t *testing.T) { porttest.Run(t, openListenStream) }
func TestDialStream(t *testing.T)   { porttest.Run(t, openDialStream) }

// A machine that is restarted comes back; what was sent while it was away is
// dropped and does not confuse the new connection.
func TestStreamRestart(t *testing.T) {
	p, peer := openListenStream(t, 1500)
	defer p.Close()
	s := peer.(*streamPeer)
	b := packet.NewBatch()
	b.Append(make([]byte, 1000))
	for i := range 3 {
		old := s.Conn
		if i%2 == 0 {
			old.Close()
		}
		for p.(port.Counted).Stats().TxDown == 0 && i == 0 {
			if _, err := p.Write(b, []uint16{0}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		s.again(t) // with i == 1 while the old connection still stands
		old.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, old); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the port keeps the old connection")
		}
		if n, err := p.Write(b, []uint16{0}); n != 1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		if f, ok := s.Recv(30 * time.Second); !ok || len(f.Data) != 1000 {
			t.Fatalf("the machine got %v, %d bytes; want a frame of 1000", ok, len(f.Data))
		}
		old.Close()
	}
}

// TestStreamStays: whoever wants the path of another port leaves its machine alone.
func TestStreamStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	first, err := port.ListenStream(port.StreamConfig{Path: path, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	machine, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	// It has been accepted once its frame was read.
	frame := make([]byte, 4+64)
	frame[3] = 64
	if _, err := machine.Write(frame); err != nil {
		t.Fatal(err)
	}
	b := packet.NewBatch()
	defer b.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		if n, _ := first.Read(b, packet.BatchSize); n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the frame does not come")
		}
		time.Sleep(time.Millisecond)
	}
	for range 3 {
		if _, err := port.ListenStream(port.StreamConfig{Path: path, MTU: 1500}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
			t.Fatalf("a second port on the path: %v", err)
		}
	}
	_ = machine.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := machine.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the machine's connection: %v, want it to go on", err)
	}
}

func TestStreamPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	first, err := port.ListenStream(port.StreamConfig{Path: path, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := port.ListenStream(port.StreamConfig{Path: path, MTU: 1500}); err == nil {
		second.Close()
		t.Error("two ports share a path")
	}
	first.Close()
	// A socket file that a killed process left behind.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	third, err := port.ListenStream(port.StreamConfig{Path: path, MTU: 1500})
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	third.Close()
}

// TestStreamRedial: a machine that listens may come late, go, and come back.
func TestStreamRedial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	p, err := port.DialStream(port.StreamConfig{Path: path, Redial: time.Millisecond})
	if err != nil {
		t.Fatalf("a machine that is not there yet: %v", err)
	}
	defer p.Close()
	for range 2 {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		greet(t, p, &streamPeer{Conn: c, caps: streamCaps})
		c.Close()
	}
	p.Close()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.(*net.UnixListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := l.Accept(); err == nil {
		t.Error("a closed port connected")
	}
}
