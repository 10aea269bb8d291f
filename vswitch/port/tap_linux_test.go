package port_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

func mustTAP(t testing.TB, cfg port.TAPConfig) *port.TAP {
	t.Helper()
	porttest.Namespaced(t)
	tap, err := port.OpenTAP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

func exists(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	return err == nil && unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r) == nil
}

// A persistent device survives Close, and is taken over as it is.
func TestTAPPersist(t *testing.T) {
	name := deviceName("tap")
	tap := mustTAP(t, port.TAPConfig{Name: name, MTU: 1400, Persist: true})
	index := ifIndex(t, name)
	peer := newSocketPeer(t, name, false, deviceCaps)
	defer peer.Close()
	for range 3 {
		tap.Close()
		if !exists(name) {
			t.Fatal("the persistent device is gone after Close")
		}
		tap = mustTAP(t, port.TAPConfig{Name: name, Persist: true})
		if got := ifIndex(t, name); got != index {
			t.Fatalf("interface %d, want the old one, %d", got, index)
		}
		if tap.MTU() != 1400 {
			t.Errorf("MTU %d, want that of the device, 1400", tap.MTU())
		}
		// The interface is still up, and the socket on it still bound.
		b := packet.NewBatch()
		f := testUDP(100)
		b.Append(f)
		if n, err := tap.Write(b, []uint16{0}); n != 1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		if got, ok := peer.Recv(30 * time.Second); !ok || !bytes.Equal(got.Data, f) {
			t.Fatal("the frame did not arrive")
		}
	}
	if err := tap.SetPersist(false); err != nil {
		t.Fatal(err)
	}
	tap.Close()
	if exists(name) {
		t.Error("the device is there after SetPersist(false) and Close")
	}
	if err := tap.SetPersist(true); !errors.Is(err, port.ErrClosed) {
		t.Errorf("SetPersist after Close: %v, want %v", err, port.ErrClosed)
	}
}

// testUDP returns a UDP frame of n bytes that porttest takes for its own.
func testUDP(n int) []byte {
	f := make([]byte, n)
	copy(f, porttest.PeerMAC[:])
	copy(f[6:], porttest.PortMAC[:])
	f[12] = 8
	f[14], f[22], f[23] = 0x45, 64, 17
	binary.BigEndian.PutUint16(f[16:], uint16(n-14))
	copy(f[26:], []byte{10, 99, 0, 2, 10, 99, 0, 1})
	binary.BigEndian.PutUint16(f[38:], uint16(n-34))
	return f
}

func TestTAPRefuses(t *testing.T) {
	held := mustTAP(t, port.TAPConfig{Name: deviceName("tap")})
	fds := openFiles(t)
	for _, tt := range []struct{ name, want string }{
		{held.Name(), "another process holds the device"},
		{"lo", "no single-queue TAP"},
		{"", "no interface name"},
		{"a-name-of-sixteen", "no interface name"},
		{"bad/name", "create: "},
	} {
		tap, err := port.OpenTAP(port.TAPConfig{Name: tt.name, Persist: true})
		if err == nil {
			tap.Close()
			t.Errorf("OpenTAP(%q) succeeded", tt.name)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("OpenTAP(%q): %v; want %q", tt.name, err, tt.want)
		}
	}
	name := deviceName("tap")
	if tap, err := port.OpenTAP(port.TAPConfig{Name: name, MTU: 70000, Persist: true}); err == nil {
		tap.Close()
		t.Error("an MTU of 70000 was accepted")
	} else if !strings.Contains(err.Error(), "set MTU 70000") {
		t.Error(err)
	}
	if exists(name) {
		t.Error("OpenTAP failed and left a device behind")
	}
	// The library leaks the descriptor of a name that the kernel refuses.
	if n := openFiles(t); n > fds+1 {
		t.Errorf("%d files open, %d before", n, fds)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	n := 0
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// A pattern for a name is one device, not two.
func TestTAPPattern(t *testing.T) {
	tap := mustTAP(t, port.TAPConfig{Name: "any%d"})
	if tap.Name() != "any0" || !exists("any0") || exists("any1") {
		t.Errorf("name %s", tap.Name())
	}
}

// An interface that is down loses packets and comes back.
func TestTAPDown(t *testing.T) {
	tap := mustTAP(t, port.TAPConfig{Name: deviceName("tap")})
	b := packet.NewBatch()
	b.Append(testUDP(100))
	b.Append(testUDP(101))
	write := func(want int, down uint64) {
		t.Helper()
		n, err := tap.Write(b, []uint16{0, 1})
		if n != want || err != nil || tap.Stats().TxDown != down {
			t.Fatalf("Write = %d, %v, want %d; %+v, want TxDown %d", n, err, want, tap.Stats(), down)
		}
	}
	write(0, 2)
	setFlags(t, tap.Name(), unix.IFF_UP)
	write(2, 2)
	setFlags(t, tap.Name(), 0)
	write(0, 4)
}

// Metadata that the kernel refuses costs the packet only.
func TestTAPInvalid(t *testing.T) {
	tap := mustTAP(t, port.TAPConfig{Name: deviceName("tap")})
	setFlags(t, tap.Name(), unix.IFF_UP)
	b := packet.NewBatch()
	p := b.Append(testUDP(100))
	p.Flags, p.CsumStart, p.CsumOffset = packet.NeedsCsum, 2000, 6
	p = b.Append(testUDP(1000))
	p.GSO, p.GSOSize, p.HdrLen = 77, 100, 42
	p = b.Append(testUDP(1000))
	p.GSO, p.HdrLen = packet.GSOUDPL4, 42 // no size
	b.Append(testUDP(100))
	n, err := tap.Write(b, []uint16{0, 1, 2, 3})
	if s := tap.Stats(); n != 1 || err != nil || s.TxInvalid != 3 {
		t.Errorf("Write = %d, %v; %+v, want TxInvalid 3", n, err, s)
	}
}

// A device that is deleted, say with its namespace, wakes and ends its port.
func TestTAPDeleted(t *testing.T) {
	tap := mustTAP(t, port.TAPConfig{Name: deviceName("tap"), Persist: true})
	setFlags(t, tap.Name(), unix.IFF_UP)
	woken := make(chan int, 1)
	go func() {
		p := []unix.PollFd{{Fd: int32(tap.FD()), Events: unix.POLLIN}}
		b := packet.NewBatch()
		for {
			if _, err := unix.Poll(p, 10000); err == unix.EINTR {
				continue // by a signal of the runtime
			}
			b.Reset()
			if _, err := tap.Read(b, 64); err != nil || p[0].Revents == 0 {
				woken <- int(p[0].Revents)
				return
			}
		}
	}()
	time.Sleep(10 * time.Millisecond)
	deleteLink(t, tap.Name())
	select {
	case ev := <-woken:
		if ev == 0 {
			t.Error("the poll ended without an event")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody woke")
	}
	b := packet.NewBatch()
	if _, err := tap.Read(b, 1); !errors.Is(err, port.ErrClosed) {
		t.Errorf("Read: %v, want %v", err, port.ErrClosed)
	}
	b.Append(testUDP(100))
	if _, err := tap.Write(b, []uint16{0}); !errors.Is(err, port.ErrClosed) {
		t.Errorf("Write: %v, want %v", err, port.ErrClosed)
	}
}

// deleteLink sends RTM_DELLINK (rtnetlink(7)).
func deleteLink(t *testing.T, name string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	m := make([]byte, 16+16)
	binary.NativeEndian.PutUint32(m[0:], uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_DELLINK)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(m[20:], uint32(ifIndex(t, name)))
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	var ack [1024]byte
	if n, err := unix.Read(fd, ack[:]); err != nil || n < 20 || binary.NativeEndian.Uint32(ack[16:]) != 0 {
		t.Fatalf("delete %s: %v, %x", name, err, ack[:max(n, 0)])
	}
}

// A TAP belongs to the namespace of the thread that opened it, and works from
// all others.
func TestTAPNamespace(t *testing.T) {
	porttest.Namespaced(t)
	type opened struct {
		tap  *port.TAP
		peer *socketPeer
	}
	name := deviceName("tap")
	c := make(chan opened)
	go func() {
		defer close(c)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		tap, err := port.OpenTAP(port.TAPConfig{Name: name, Persist: true})
		if err != nil {
			t.Error(err)
			return
		}
		c <- opened{tap, newSocketPeer(t, name, false, deviceCaps)}
	}()
	o, ok := <-c
	if !ok {
		t.FailNow()
	}
	<-c
	defer o.tap.Close()
	defer o.peer.Close()
	if exists(name) {
		t.Error("the device is in this namespace")
	}
	b := packet.NewBatch()
	f := testUDP(100)
	b.Append(f)
	if n, err := o.tap.Write(b, []uint16{0}); n != 1 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if got, ok := o.peer.Recv(30 * time.Second); !ok || !bytes.Equal(got.Data, f) {
		t.Error("the frame did not arrive")
	}
}

// Kernels before 6.2 get UDP superpackets in pieces.
func TestTAPWithoutUSO(t *testing.T) {
	porttest.Namespaced(t)
	porttest.Run(t, func(t *testing.T, mtu int) (port.Port, porttest.Peer) {
		p, peer := openTAP(t, mtu)
		p.(*port.TAP).WithoutUSO()
		s := peer.(tapPeer)
		s.caps.Whole = false
		return p, tapPeer{s.socketPeer}
	})
}
