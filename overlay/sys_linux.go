package overlay

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's structures of sendmsg(2), with addresses as integers: what they
// point to lies outside of the Go heap or is kept alive by the caller, and
// filling them in costs no write barrier. Go's collector does not move objects.
type (
	iovec struct {
		base uintptr
		len  uintptr
	}
	msghdr struct {
		name       uintptr
		nameLen    uint32
		iov        uintptr
		iovLen     uintptr
		control    uintptr
		controlLen uintptr
		flags      int32
	}
	mmsghdr struct {
		msghdr
		len uint32
	}
	// cmsghdr is followed by data, padded to the size of a word.
	cmsghdr struct {
		len   uintptr
		level int32
		typ   int32
	}
)

// The sizes must be those of the kernel.
var (
	_ [unsafe.Sizeof(unix.Msghdr{}) - unsafe.Sizeof(msghdr{})]byte
	_ [unsafe.Sizeof(msghdr{}) - unsafe.Sizeof(unix.Msghdr{})]byte
	_ [unsafe.Sizeof(unix.Cmsghdr{}) - unsafe.Sizeof(cmsghdr{})]byte
	_ [unsafe.Sizeof(cmsghdr{}) - unsafe.Sizeof(unix.Cmsghdr{})]byte
)

const (
	wordSize = unsafe.Sizeof(uintptr(0))
	cmsgLen  = unsafe.Sizeof(cmsghdr{})
	// cmsgSpace is what a control message with at most one word of data takes.
	cmsgSpace = cmsgLen + wordSize
)

// sockaddr is a sockaddr_in or sockaddr_in6 and its length.
type sockaddr struct {
	b [unix.SizeofSockaddrInet6]byte
	n uint32
}

func newSockaddr(a netip.AddrPort) (s sockaddr) {
	binary.BigEndian.PutUint16(s.b[2:], a.Port())
	if ip := a.Addr(); ip.Is4() {
		binary.NativeEndian.PutUint16(s.b[0:], unix.AF_INET)
		*(*[4]byte)(s.b[4:]) = ip.As4()
		s.n = unix.SizeofSockaddrInet4
	} else {
		binary.NativeEndian.PutUint16(s.b[0:], unix.AF_INET6)
		*(*[16]byte)(s.b[8:]) = ip.As16()
		s.n = unix.SizeofSockaddrInet6
	}
	return s
}

// source reads what recvmsg wrote: the address and port of the sender.
func (s *sockaddr) source() source {
	port := binary.BigEndian.Uint16(s.b[2:])
	if binary.NativeEndian.Uint16(s.b[0:]) == unix.AF_INET {
		return source{0, 0xffff<<32 | uint64(binary.BigEndian.Uint32(s.b[4:])), port}
	}
	return source{binary.BigEndian.Uint64(s.b[8:]), binary.BigEndian.Uint64(s.b[16:]), port}
}

// control is the buffer of a message's control messages, aligned to words.
type control [2 * cmsgSpace / wordSize]uintptr

// put writes a control message of at most a word as the i-th.
func (c *control) put(i int, level, typ int32, dataLen uintptr) *[wordSize]byte {
	h := (*cmsghdr)(unsafe.Pointer(&c[uintptr(i)*cmsgSpace/wordSize]))
	h.len, h.level, h.typ = cmsgLen+dataLen, level, typ
	return (*[wordSize]byte)(unsafe.Add(unsafe.Pointer(h), cmsgLen))
}

// received returns what UDP_GRO says about the first n bytes of control, 0 if
// nothing, and the outer TOS or traffic class.
func (c *control) received(n uintptr) (stride int, tos uint8) {
	for at := uintptr(0); at+cmsgLen <= n && at+cmsgSpace <= unsafe.Sizeof(*c); {
		h := (*cmsghdr)(unsafe.Pointer(&c[at/wordSize]))
		data := (*[wordSize]byte)(unsafe.Add(unsafe.Pointer(h), cmsgLen))
		if h.len < cmsgLen {
			break
		}
		switch {
		case h.level == unix.SOL_UDP && h.typ == unix.UDP_GRO:
			stride = int(int32(binary.NativeEndian.Uint32(data[:])))
		case h.level == unix.IPPROTO_IP && h.typ == unix.IP_TOS:
			tos = data[0]
		case h.level == unix.IPPROTO_IPV6 && h.typ == unix.IPV6_TCLASS:
			tos = uint8(binary.NativeEndian.Uint32(data[:]))
		}
		at += (h.len + wordSize - 1) &^ (wordSize - 1)
	}
	return stride, tos
}

// The system calls. Sockets are non-blocking, so the Go scheduler need not know.

func sendmsg(fd int, m *mmsghdr) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return e
}

// sendmmsg returns how many were sent; the error is that of the first.
func sendmmsg(fd int, m []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func recvmsg(fd int, m *mmsghdr) unix.Errno {
	n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), unix.MSG_DONTWAIT)
	m.len = uint32(n)
	return e
}

func recvmmsg(fd int, m []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)),
		unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
