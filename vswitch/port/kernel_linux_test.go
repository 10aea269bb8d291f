package port_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// space is a network namespace and the thread that is in it.
type space struct{ calls chan func() }

func newSpace(t *testing.T) *space {
	s := &space{make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range s.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("unshare: %v", err)
	}
	t.Cleanup(func() { close(s.calls) })
	return s
}

// do runs f in the namespace.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.calls <- func() { defer close(done); f() }
	<-done
}

// address brings the interface up with an address.
func address(t *testing.T, name string, ip [4]byte) {
	t.Helper()
	set := func(req uint, a [4]byte) {
		ioctl(t, name, req, func(r *unix.Ifreq) {
			if err := r.SetInet4Addr(a[:]); err != nil {
				t.Fatal(err)
			}
		})
	}
	set(unix.SIOCSIFADDR, ip)
	set(unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0})
	setFlags(t, name, unix.IFF_UP)
}

// wire carries everything between two ports until both are closed.
func wire(a, b port.Port) {
	batch := packet.NewBatch()
	idx := make([]uint16, packet.BatchSize)
	for i := range idx {
		idx[i] = uint16(i)
	}
	for {
		moved := 0
		for _, way := range [2][2]port.Port{{a, b}, {b, a}} {
			batch.Reset()
			n, err := way[0].Read(batch, packet.BatchSize)
			if err != nil {
				return
			}
			if _, err := way[1].Write(batch, idx[:n]); err != nil {
				return
			}
			moved += n
		}
		if moved == 0 {
			time.Sleep(20 * time.Microsecond)
		}
	}
}

// TestB14OffloadTCP sends a real kernel's TCP between ports of every pair of
// kinds. Where offload metadata is lost on the way, pings pass and TCP hangs,
// or the receiver counts wrong checksums.
func TestB14OffloadTCP(t *testing.T) {
	porttest.Namespaced(t)
	type opener func(*testing.T, string) port.Port
	tap := func(t *testing.T, name string) port.Port {
		p, err := port.OpenTAP(port.TAPConfig{Name: name, MTU: 1450})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := func(t *testing.T, name string) port.Port {
		p, err := port.OpenWater(port.WaterConfig{Name: name, MTU: 1450})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	tun := func(t *testing.T, name string) port.Port {
		p, err := port.OpenTUN(port.TUNConfig{Name: name, MTU: 1450})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, tt := range []struct {
		name           string
		client, server opener
	}{
		{"tap_tap", tap, tap}, {"tap_plain", tap, plain}, {"plain_tap", plain, tap}, {"tun_tun", tun, tun},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cs, ss := newSpace(t), newSpace(t)
			var a, b port.Port
			cs.do(func() { a = tt.client(t, "eth0"); address(t, "eth0", [4]byte{10, 99, 0, 1}) })
			ss.do(func() { b = tt.server(t, "eth0"); address(t, "eth0", [4]byte{10, 99, 0, 2}) })
			if a == nil || b == nil || t.Failed() {
				t.FailNow()
			}
			var wg sync.WaitGroup
			wg.Go(func() { wire(a, b) })
			defer wg.Wait()
			defer a.Close()
			defer b.Close()
			stream(t, cs, ss, "10.99.0.2:80")
			for _, s := range []*space{cs, ss} {
				s.do(func() {
					if n := csumErrors(t); n != 0 {
						t.Errorf("%d segments with a wrong checksum", n)
					}
				})
			}
		})
	}
}

// stream sends data one way and its hash back.
func stream(t *testing.T, client, server *space, addr string) {
	t.Helper()
	const size = 32 << 20
	var l net.Listener
	var err error
	server.do(func() { l, err = net.Listen("tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		h := sha256.New()
		_, _ = io.CopyN(h, c, size)
		_, _ = c.Write(h.Sum(nil))
	}()
	var c net.Conn
	client.do(func() { c, err = net.DialTimeout("tcp4", addr, 30*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	start := time.Now()
	h := sha256.New()
	block := make([]byte, 1<<20)
	for i := range size / len(block) {
		for j := 0; j < len(block); j += 8 {
			binary.NativeEndian.PutUint64(block[j:], uint64(i*len(block)+j)*0x9e3779b97f4a7c15)
		}
		h.Write(block)
		if _, err := c.Write(block); err != nil {
			t.Fatalf("after %d of %d bytes: %v", i*len(block), size, err)
		}
	}
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		t.Fatalf("the other end's hash: %v", err)
	}
	if !bytes.Equal(sum[:], h.Sum(nil)) {
		t.Error("the other end received something else")
	}
	t.Logf("%d MiB in %v", size>>20, time.Since(start).Round(time.Millisecond))
}

// csumErrors returns what the namespace of this thread counted in TcpInCsumErrors.
func csumErrors(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/snmp", unix.Gettid()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if name == "InCsumErrors" {
				n, _ := strconv.Atoi(f[i])
				return n
			}
		}
	}
	t.Fatal("no InCsumErrors in snmp")
	return 0
}
