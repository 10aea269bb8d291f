package stack

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Events that end a wait. Errors count: gVisor's own net adapter does not wait
// for them, so that an ICMP error never reaches a reader of UDP.
const (
	readable = waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp
	writable = waiter.WritableEvents | waiter.EventErr | waiter.EventHUp
)

// socket is one socket of a Stack: gVisor's endpoint, which never blocks, and
// what blocking calls with deadlines need.
type socket struct {
	s       *Stack
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	network string
	// The addresses stay known after Close, as they do in package net.
	local, remote net.Addr

	closed           atomic.Bool
	reading, writing deadline
}

// init makes the socket ready. The endpoint must be bound or connected.
func (k *socket) init(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, network string) {
	k.s, k.ep, k.wq, k.network = s, ep, wq, network
	k.reading.expired, k.writing.expired = make(chan struct{}), make(chan struct{})
	if a, err := ep.GetLocalAddress(); err == nil {
		k.local = netAddr(network, a)
	}
	if a, err := ep.GetRemoteAddress(); err == nil && a.Port != 0 {
		k.remote = netAddr(network, a)
	}
}

// netAddr returns a as package net has it.
func netAddr(network string, a tcpip.FullAddress) net.Addr {
	if network == "tcp" {
		return &net.TCPAddr{IP: a.Addr.AsSlice(), Port: int(a.Port)}
	}
	return &net.UDPAddr{IP: a.Addr.AsSlice(), Port: int(a.Port)}
}

// retry calls try until it would not block any more, and returns its error.
func (k *socket) retry(events waiter.EventMask, d *deadline, try func() tcpip.Error) error {
	if d.over() {
		return os.ErrDeadlineExceeded
	}
	err := try()
	if _, block := err.(*tcpip.ErrWouldBlock); block {
		entry, event := waiter.NewChannelEntry(events)
		k.wq.EventRegister(&entry)
		defer k.wq.EventUnregister(&entry)
		for {
			// Once more after registering: the event may have been before.
			err = try()
			if _, block := err.(*tcpip.ErrWouldBlock); !block {
				break
			}
			select {
			case <-event:
			case <-d.wait():
				return os.ErrDeadlineExceeded
			}
		}
	}
	if err == nil {
		return nil
	}
	if k.ended() {
		return net.ErrClosed
	}
	return errnoOf(err)
}

// ended reports whether an error may come from a Close.
func (k *socket) ended() bool { return k.closed.Load() || k.s.isClosed() }

// fail returns err as the error of an operation.
func (k *socket) fail(op string, addr net.Addr, err error) error {
	return opError(op, k.network, k.local, addr, err)
}

// Close ends the socket and wakes who waits for it.
func (k *socket) Close() error {
	if k.closed.Swap(true) {
		return k.fail("close", k.remote, net.ErrClosed)
	}
	k.ep.Close()
	return nil
}

// LocalAddr returns the address of our side.
func (k *socket) LocalAddr() net.Addr { return k.local }

// RemoteAddr returns the address of the other side, nil if there is none.
func (k *socket) RemoteAddr() net.Addr { return k.remote }

// SetDeadline implements [net.Conn].
func (k *socket) SetDeadline(t time.Time) error {
	k.reading.set(t)
	k.writing.set(t)
	return nil
}

// SetReadDeadline implements [net.Conn].
func (k *socket) SetReadDeadline(t time.Time) error {
	k.reading.set(t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (k *socket) SetWriteDeadline(t time.Time) error {
	k.writing.set(t)
	return nil
}

// deadline is a moment that can be waited for, and moved while somebody waits.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed when the moment has come
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer has fired, and closes this
	}
	d.timer = nil
	select {
	case <-d.expired:
		d.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	expired := d.expired
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(expired) })
	} else {
		close(expired)
	}
}

// wait returns a channel that is closed when the moment has come.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

// over reports whether the moment has come.
func (d *deadline) over() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
