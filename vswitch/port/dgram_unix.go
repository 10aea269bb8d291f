//go:build unix

package port

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// magic is what vfkit and krunkit send first: it carries their address.
const magic = "VFKT"

// Buffers of the socket in bytes. macOS takes no datagram larger than the send
// buffer; Linux counts datagrams (net.unix.max_dgram_qlen) as well.
const (
	dgramSendBuf = 1 << 20
	dgramRecvBuf = 4 << 20
)

// dgramPatience is how long a frame waits for a machine whose buffer is full. A
// burst, such as a superpacket in pieces, is taken in less; a machine that has
// stopped is not waited for again until it takes a frame.
const dgramPatience = 20 * time.Millisecond

// Dgram is a unix datagram socket that carries one frame in each datagram, as
// vfkit, krunkit and QEMU's -netdev dgram do. It is a Port and a Notifier.
// Frames are complete; the machine is offered no offloads.
type Dgram struct {
	pump
	path string
	conn *net.UnixConn
	raw  syscall.RawConn
	// fixed: the peer is configured, not learned.
	fixed bool

	mu   sync.Mutex                        // held to change peer and, with it, up
	peer atomic.Pointer[unix.SockaddrUnix] // nil: nobody is there
}

// OpenDgram binds the socket cfg.Path. While nobody is at the other end,
// packets are dropped as TxDown. The port lives until Close, however often the
// machine is restarted.
func OpenDgram(cfg DgramConfig) (*Dgram, error) {
	if err := removeStale(cfg.Path); err != nil {
		return nil, fmt.Errorf("datagram port: %w", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: cfg.Path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("datagram port: %w", err)
	}
	d := &Dgram{path: cfg.Path, conn: c}
	d.init(cfg.MTU)
	if err := d.start(cfg); err != nil {
		d.Close()
		return nil, fmt.Errorf("datagram port: %w", err)
	}
	return d, nil
}

func (d *Dgram) start(cfg DgramConfig) (err error) {
	if d.raw, err = d.conn.SyscallConn(); err != nil {
		return err
	}
	if err := errors.Join(d.conn.SetWriteBuffer(dgramSendBuf), d.conn.SetReadBuffer(dgramRecvBuf)); err != nil {
		return err
	}
	if cfg.Remote != "" {
		d.fixed = true
		d.learn(cfg.Remote)
	}
	if cfg.Magic {
		if _, err := d.conn.WriteToUnix([]byte(magic), &net.UnixAddr{Name: cfg.Remote, Net: "unixgram"}); err != nil {
			return err
		}
	}
	go d.receive()
	go d.send()
	return nil
}

// Close ends the port and removes its socket.
func (d *Dgram) Close() error {
	d.end(true)
	err := d.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	// Unlike a listener's, a datagram socket's file stays.
	_ = os.Remove(d.path)
	return err
}

func (d *Dgram) receive() {
	buf := make([]byte, packet.MaxFrame+1)
	for {
		n, from, err := d.read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			d.end(false)
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = d.conn.SetReadDeadline(time.Time{})
			continue
		case err != nil:
			d.rxErrors.Add(1)
			time.Sleep(time.Millisecond) // whatever it is, it is not the machine's haste
			continue
		}
		isMagic := string(buf[:n]) == magic
		switch {
		case d.fixed:
		case from != nil && from.Name != "" && (isMagic || n >= packet.EthernetLen):
			d.learn(from.Name)
		case isMagic:
			// Somebody new, whose address the read has not asked for. The next
			// datagram tells.
			d.forget(d.peer.Load())
		}
		if !isMagic && !d.deliver(buf[:n]) {
			return
		}
	}
}

// read receives a datagram, and asks for its sender only while nobody is known:
// the address costs allocations.
func (d *Dgram) read(buf []byte) (n int, from *net.UnixAddr, err error) {
	if d.peer.Load() != nil {
		n, err = d.conn.Read(buf)
		return n, nil, err
	}
	return d.conn.ReadFromUnix(buf)
}

// learn makes the socket at path the machine.
func (d *Dgram) learn(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peer.Store(&unix.SockaddrUnix{Name: path})
	d.up.Store(true)
}

// forget makes the port wait for a new machine, unless old is no longer the one
// it has.
func (d *Dgram) forget(old *unix.SockaddrUnix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old != nil && d.peer.CompareAndSwap(old, nil) {
		d.disconnected()
		// A read that waits does not ask for the address. Start it anew.
		_ = d.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// send takes what is queued and sends frame after frame. It copies them first,
// because it may have to wait for the machine.
func (d *Dgram) send() {
	s := sender{d: d}
	s.call = s.sendto
	var f burst
	f.init()
	for d.next(f.add) && f.take(s.send) {
	}
}

// sender sends datagrams. Its fields are what one call of sendto needs, so that
// the closure is made once.
type sender struct {
	d     *Dgram
	call  func(fd uintptr) bool
	frame []byte
	to    *unix.SockaddrUnix
	err   error
	stuck bool // the machine took nothing for as long as we wait
}

// sendto never waits in the poller, which would not be told: the full buffer is
// the receiver's.
func (s *sender) sendto(fd uintptr) bool {
	s.err = unix.Sendto(int(fd), s.frame, unix.MSG_DONTWAIT, s.to)
	return true
}

// send sends one frame, or counts it as lost. It reports false when the port was
// closed.
func (s *sender) send(frame []byte) bool {
	d := s.d
	if s.to = d.peer.Load(); s.to == nil {
		d.txDown.Add(1)
		return true
	}
	s.frame = frame
	pause := 10 * time.Microsecond
	for waited := time.Duration(0); ; waited += pause {
		if d.raw.Write(s.call) != nil {
			return false
		}
		full := s.err == unix.EAGAIN || s.err == unix.ENOBUFS
		if !full || s.stuck || waited > dgramPatience {
			s.stuck = full
			break
		}
		time.Sleep(pause)
		pause = min(2*pause, time.Millisecond)
	}
	s.count()
	return true
}

// count notes what became of a frame.
func (s *sender) count() {
	d := s.d
	switch s.err {
	case nil:
	case unix.EAGAIN, unix.ENOBUFS:
		d.txFull.Add(1)
	case unix.ECONNREFUSED, unix.ENOENT, unix.ECONNRESET, unix.ENOTCONN, unix.EDESTADDRREQ:
		if !d.fixed {
			d.forget(s.to)
		}
		d.txDown.Add(1)
	case unix.EMSGSIZE:
		d.txTooBig.Add(1)
	default:
		d.txErrors.Add(1)
	}
}
