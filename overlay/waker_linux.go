package overlay

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waker is the descriptor that a poller of a link waits for. It is not the
// socket itself, because packets may also wait in the receiver: one datagram of
// the kernel can hold more of them than the caller of Read wants.
type waker struct {
	poll  int // epoll of the socket and event
	event int // eventfd, readable while the receiver holds packets and after Close
}

func newWaker(socket int) (w waker, err error) {
	w.poll = -1
	if w.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return waker{}, fmt.Errorf("eventfd: %w", err)
	}
	if w.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		w.discard()
		return waker{}, fmt.Errorf("epoll: %w", err)
	}
	for _, fd := range []int{socket, w.event} {
		if err := unix.EpollCtl(w.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			w.discard()
			return waker{}, fmt.Errorf("epoll: %w", err)
		}
	}
	return w, nil
}

// ring makes the descriptor readable, quiet takes that back.
func (w waker) ring() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	if w.poll > 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(w.event), uintptr(unsafe.Pointer(&b)), 8)
	}
}

func (w waker) quiet() {
	var b [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(w.event), uintptr(unsafe.Pointer(&b)), 8)
}

func (w waker) discard() {
	unix.Close(w.event)
	if w.poll >= 0 {
		unix.Close(w.poll)
	}
}

// overruns returns how many datagrams the kernel dropped because the socket's
// receive buffer was full.
func overruns(fd int) uint32 {
	var info [unix.SK_MEMINFO_VARS]uint32
	n := uint32(unsafe.Sizeof(info))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 || n < unix.SK_MEMINFO_DROPS*4+4 {
		return 0
	}
	return info[unix.SK_MEMINFO_DROPS]
}
