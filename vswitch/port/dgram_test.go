//go:build unix

package port_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// dgramPeer is a virtual machine at the other end of a datagram socket, as
// vfkit makes it: bound to a path of its own and connected to ours.
type dgramPeer struct {
	*net.UnixConn
	to *net.UnixAddr // set: not connected
}

func (d *dgramPeer) Caps() porttest.Caps {
	return porttest.Caps{Bounded: true, Waits: true, Lossy: true, MaxMTU: packet.MaxIP}
}

func (d *dgramPeer) Send(f porttest.Frame) (err error) {
	if d.to != nil {
		_, err = d.WriteToUnix(f.Data, d.to)
	} else {
		_, err = d.Write(f.Data)
	}
	return err
}

func (d *dgramPeer) Recv(wait time.Duration) (porttest.Frame, bool) {
	d.SetReadDeadline(time.Now().Add(wait + time.Millisecond))
	buf := make([]byte, packet.MaxFrame+1)
	n, err := d.Read(buf)
	return porttest.Frame{Data: buf[:n]}, err == nil
}

func (d *dgramPeer) Nonsense(t *testing.T) uint64 {
	for _, n := range []int{0, 3, 13, packet.MaxFrame + 1, 70000} {
		if err := d.Send(porttest.Frame{Data: make([]byte, n)}); err != nil {
			t.Fatalf("datagram of %d bytes: %v", n, err)
		}
	}
	return 5
}

// dialDgram makes a machine at the path own that speaks to path, and introduces
// it if there is a magic.
func dialDgram(t *testing.T, own, path, magic string) *dgramPeer {
	t.Helper()
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"}, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	c.SetWriteBuffer(1 << 20)
	if magic != "" {
		if _, err := c.Write([]byte(magic)); err != nil {
			t.Fatal(err)
		}
	}
	return &dgramPeer{UnixConn: c}
}

func openDgram(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	dir := t.TempDir()
	path := filepath.Join(dir, "switch")
	p, err := port.OpenDgram(port.DgramConfig{Path: path, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	peer := dialDgram(t, filepath.Join(dir, "vm"), path, "VFKT")
	greet(t, p, peer)
	return p, peer
}

// openRemoteDgram has both paths configured, as QEMU's -netdev dgram has.
func openRemoteDgram(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	dir := t.TempDir()
	path, remote := filepath.Join(dir, "switch"), &net.UnixAddr{Name: filepath.Join(dir, "vm"), Net: "unixgram"}
	c, err := net.ListenUnixgram("unixgram", remote)
	if err != nil {
		t.Fatal(err)
	}
	c.SetWriteBuffer(1 << 20)
	p, err := port.OpenDgram(port.DgramConfig{Path: path, Remote: remote.Name, Magic: true, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	var magic [8]byte
	if n, err := c.Read(magic[:]); string(magic[:n]) != "VFKT" || err != nil {
		t.Fatalf("the port introduced itself with %q, %v", magic[:n], err)
	}
	// Connected, so that a send waits when the port's buffer is full.
	c.Close()
	d := &dgramPeer{}
	if err := os.Remove(remote.Name); err != nil {
		t.Fatal(err)
	}
	if d.UnixConn, err = net.DialUnix("unixgram", remote, &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	d.SetWriteBuffer(1 << 20)
	return p, d
}

func TestDgram(t *testing.T)       { porttest.Run(t, openDgram) }
func TestDgramRemote(t *testing.T) { porttest.Run(t, openRemoteDgram) }

// A restarted machine has another address, and says so.
func TestDgramRestart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "switch")
	p, err := port.OpenDgram(port.DgramConfig{Path: path, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b := packet.NewBatch()
	b.Append(make([]byte, 1000))
	if n, err := p.Write(b, []uint16{0}); n != 0 || err != nil || p.Stats().TxDown != 1 {
		t.Errorf("Write = %d, %v with nobody there; %+v", n, err, p.Stats())
	}
	for i := range 4 {
		magic := "VFKT"
		if i == 1 { // QEMU has none: the port sees that the old machine is gone
			magic = ""
			for p.Stats().TxDown < 2 {
				p.Write(b, []uint16{0})
				time.Sleep(time.Millisecond)
			}
		}
		vm := dialDgram(t, filepath.Join(dir, fmt.Sprintf("vm%d", i)), path, magic)
		greet(t, p, vm)
		// The frame that came while the port forgot the old machine has taught it
		// nothing; the next one does.
		n, err := p.Write(b, []uint16{0})
		for try := 0; n == 0 && err == nil && try < 100; try++ {
			greet(t, p, vm)
			n, err = p.Write(b, []uint16{0})
		}
		if n != 1 || err != nil {
			t.Fatalf("machine %d: Write = %d, %v", i, n, err)
		}
		if f, ok := vm.Recv(30 * time.Second); !ok || len(f.Data) != 1000 {
			t.Fatalf("machine %d got %v, %d bytes; want a frame of 1000", i, ok, len(f.Data))
		}
		if i%2 == 0 {
			vm.Close() // the next write finds nobody
		} else {
			defer vm.Close() // the next machine comes while this one still stands
		}
	}
}

func TestDgramPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "switch")
	first, err := port.OpenDgram(port.DgramConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if first.MTU() != 1500 {
		t.Errorf("MTU %d, want 1500", first.MTU())
	}
	if second, err := port.OpenDgram(port.DgramConfig{Path: path}); err == nil {
		second.Close()
		t.Error("two ports share a path")
	}
	if second, err := port.ListenStream(port.StreamConfig{Path: path}); err == nil {
		second.Close()
		t.Error("a stream port takes the path of datagrams")
	}
	first.Close()
	stream, err := port.ListenStream(port.StreamConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := port.OpenDgram(port.DgramConfig{Path: path}); err == nil {
		second.Close()
		t.Error("a datagram port takes the path of a stream")
	}
	stream.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is there after Close")
	}
	// A socket file that a killed process left behind.
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	third, err := port.OpenDgram(port.DgramConfig{Path: path})
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	third.Close()
}
