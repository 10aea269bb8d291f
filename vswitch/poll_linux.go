package vswitch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/port"
)

var errNotPollable = errors.New("the port can be neither polled nor does it notify")

// newPoller returns the system's poller, or, for a switch in memory, one that
// needs no descriptors.
func newPoller(inline bool) (poller, error) {
	if inline {
		return newBellPoller(), nil
	}
	return newEpoller()
}

// epoller waits in epoll_wait for descriptors, and for an eventfd that says
// that a Notifier port rang.
type epoller struct {
	bells
	fd, event int
	byFD      map[int32]*attached
	events    [64]unix.EpollEvent
	asleep    atomic.Bool
	pending   bool // some Notifier has more; do not sleep
}

func newEpoller() (*epoller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &epoller{fd: fd, event: event, byFD: map[int32]*attached{}}
	if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(event)}); err != nil {
		p.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return p, nil
}

func (p *epoller) add(a *attached) error {
	f, ok := a.port.(port.Pollable)
	if !ok {
		if _, ok := a.port.(port.Notifier); !ok {
			return errNotPollable
		}
		return nil
	}
	fd := f.FD()
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	p.byFD[int32(fd)] = a
	return nil
}

func (p *epoller) remove(a *attached) {
	for fd, b := range p.byFD {
		if a == b {
			delete(p.byFD, fd)
			// The descriptor may be closed already, which removes it, too.
			_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, int(fd), nil)
		}
	}
}

func (p *epoller) wait(block bool, ready []*attached) []*attached {
	timeout := 0
	if block && !p.pending {
		p.asleep.Store(true)
		// A bell that rang before asleep was set has woken nobody.
		if p.mu.Lock(); len(p.rung) == 0 {
			timeout = int(tick / time.Millisecond)
		}
		p.mu.Unlock()
	}
	p.pending = false
	n, err := unix.EpollWait(p.fd, p.events[:], timeout)
	p.asleep.Store(false)
	if err != nil {
		n = 0
	}
	for i := range p.events[:n] {
		fd := p.events[i].Fd
		if int(fd) == p.event {
			var b [8]byte
			_, _ = unix.Read(p.event, b[:])
			continue
		}
		if a := p.byFD[fd]; a != nil {
			ready = append(ready, a)
		}
	}
	return p.drain(ready)
}

// again does nothing for descriptors: epoll is level triggered.
func (p *epoller) again(a *attached) {
	if _, ok := a.port.(port.Pollable); ok {
		return
	}
	if !a.rung.Swap(true) {
		p.bells.ring(a)
		p.pending = true
	}
}

func (p *epoller) ring(a *attached) {
	p.bells.ring(a)
	if p.asleep.Load() {
		p.wake()
	}
}

func (p *epoller) wake() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	_, _ = unix.Write(p.event, b[:])
}

func (p *epoller) close() {
	unix.Close(p.event)
	unix.Close(p.fd)
}
