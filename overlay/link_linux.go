package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/port"
)

// Link is this node's VXLAN endpoint: a port.Port and port.Pollable. It sends
// and receives with system calls on sockets of its own, superpackets whole.
//
// It calls the kernel without telling the Go scheduler, because nothing blocks:
// on a loopback or virtual network, a send takes as long as it takes to queue
// the datagrams at the receiver.
type Link struct {
	endpoint
	guard port.Guard
	waker
	recv    int   // the socket that receives
	send    []int // the sockets that send
	rx      receiver
	senders [maxSenders]sender
	// segments is how many datagrams one send may take: 1 without offload. It
	// starts with what new kernels take and is lowered when one refuses.
	segments atomic.Int32
	maxBytes int // of a send with several datagrams
}

var (
	_ port.Port     = (*Link)(nil)
	_ port.Pollable = (*Link)(nil)
)

// Limits of one send with UDP_SEGMENT.
const (
	// Kernels from 6.9 on take 128 segments, older ones 64, and some count
	// one more than there are (udp_send_skb in net/ipv4/udp.c).
	maxSegments    = 127
	maxSegmentsOld = 63
	// With its headers, a send must fit gso_max_size (65,536), else it is cut
	// before the receiver on the same machine gets it.
	maxBytes4 = 65493
	maxBytes6 = 65473
)

// Listen opens a link. It needs no privilege.
func Listen(cfg Config) (*Link, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, listenError(cfg.Local, err)
	}
	l := &Link{recv: -1, maxBytes: maxBytes4}
	l.init(cfg)
	l.guard.Free = l.closeSockets
	if err := l.open(); err != nil {
		l.Close()
		return nil, listenError(cfg.Local, err)
	}
	return l, nil
}

func (l *Link) open() (err error) {
	local := l.cfg.Local
	if local.Addr().Is6() {
		l.maxBytes = maxBytes6
	}
	l.segments.Store(1)
	if l.recv, err = udpSocket(local); err != nil {
		return err
	}
	if err := l.receiveOptions(); err != nil {
		return err
	}
	if l.local, err = boundTo(l.recv); err != nil {
		return err
	}
	for range l.cfg.Sockets {
		fd, err := udpSocket(netip.AddrPortFrom(local.Addr(), 0))
		if err != nil {
			return err
		}
		l.send = append(l.send, fd)
		if err := l.sendOptions(fd); err != nil {
			return err
		}
		a, err := boundTo(fd)
		if err != nil {
			return err
		}
		l.ports = append(l.ports, a.Port())
	}
	// Kernels before 4.18 have no UDP_SEGMENT.
	if l.cfg.Offload && unix.SetsockoptInt(l.send[0], unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil {
		l.segments.Store(maxSegments)
	}
	if err := l.rx.init(); err != nil {
		return err
	}
	if l.waker, err = newWaker(l.recv); err != nil {
		return err
	}
	// Not earlier: a poller must see that the link was closed.
	runtime.AddCleanup(l, waker.discard, l.waker)
	return nil
}

// udpSocket returns a non-blocking socket bound to a.
func udpSocket(a netip.AddrPort) (int, error) {
	family := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(a.Port()), Addr: [4]byte(a.Addr().AsSlice())}
	if a.Addr().Is6() {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return -1, fmt.Errorf("%w: another VXLAN endpoint, perhaps a kernel device, has the port; take another port or address", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return -1, fmt.Errorf("%w: the address is not one of this machine's", err)
	}
	return -1, err
}

func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("read the socket's address: %w", err)
}

// receiveOptions sets up the socket that receives.
func (l *Link) receiveOptions() error {
	l.recvBuffer = setBuffer(l.recv, l.cfg.RecvBuffer, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
	level, opt := unix.IPPROTO_IP, unix.IP_RECVTOS
	if l.cfg.Local.Addr().Is6() {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS
	}
	if err := unix.SetsockoptInt(l.recv, level, opt, 1); err != nil {
		return fmt.Errorf("receive the outer ECN field: %w", err)
	}
	if l.cfg.Offload {
		// Kernels before 5.0 have none; then every datagram comes alone.
		_ = unix.SetsockoptInt(l.recv, unix.SOL_UDP, unix.UDP_GRO, 1)
	}
	return nil
}

// sendOptions sets up a socket that sends.
func (l *Link) sendOptions(fd int) error {
	l.sendBuffer = setBuffer(fd, l.cfg.SendBuffer, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	level, discover, ttl := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_TTL
	if l.cfg.Local.Addr().Is6() {
		level, discover, ttl = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_UNICAST_HOPS
	}
	if err := unix.SetsockoptInt(fd, level, ttl, 64); err != nil {
		return fmt.Errorf("set TTL: %w", err)
	}
	// No DF, as kernel VXLAN does by default, and the MTU of the interface
	// rather than what ICMP says: a forged "fragmentation needed" would else
	// end offloading for a peer.
	if err := unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_OMIT); err != nil {
		if err := unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_DONT); err != nil {
			return fmt.Errorf("clear DF: %w", err)
		}
	}
	// Nobody reads these sockets. A filter that takes nothing keeps whatever
	// is sent to them from lying in their buffers.
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	prog := unix.SockFprog{Len: 1, Filter: &none}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach a filter: %w", err)
	}
	return nil
}

// setBuffer asks for a socket buffer, with privilege if there is some, and
// returns what it became.
func setBuffer(fd, size, force, plain int) int {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
	}
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, plain)
	if err != nil {
		return 0
	}
	return n
}

// FD implements port.Pollable.
func (l *Link) FD() int { return l.poll }

// Offload reports whether the link sends several datagrams at once. It is
// false if the configuration says so, or the kernel does not know how.
func (l *Link) Offload() bool { return l.segments.Load() > 1 }

// Drops returns how many datagrams were lost, by reason.
func (l *Link) Drops() map[Drop]uint64 {
	all := l.dropCounts()
	if !l.guard.Enter() {
		return all
	}
	defer l.guard.Leave()
	if n := overruns(l.recv); n != 0 {
		all[DropOverrun] = uint64(n)
	}
	return all
}

// Close ends the link and frees its ports. Read and Write return port.ErrClosed
// from then on. FD stays open, and readable, as long as somebody holds l.
func (l *Link) Close() error {
	l.ring()
	l.guard.Shut()
	return nil
}

func (l *Link) closeSockets() {
	for _, fd := range append([]int{l.recv}, l.send...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	l.rx.free()
}
