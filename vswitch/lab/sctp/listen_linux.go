package sctp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// InKernel reports whether the kernel has SCTP, which may have it load a module.
func InKernel() bool {
	fd, err := socket()
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

func socket() (fd int, err error) {
	return unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_SCTP)
}

// Listen listens with the kernel's own SCTP, at all addresses of both families.
func Listen(port uint16) (net.Listener, error) {
	fd, err := socket()
	if err != nil {
		return nil, fmt.Errorf("listen at SCTP port %d: %w", port, err)
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close()
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}),
		unix.Listen(fd, 128),
	); err != nil {
		return nil, fmt.Errorf("listen at SCTP port %d: %w", port, err)
	}
	return net.FileListener(f)
}

// Conns are the raw sockets of a server, one for each family that the kernel
// has. They see all SCTP packets that come to this network namespace, and keep
// the kernel from refusing them.
type Conns []*net.IPConn

// Open makes the sockets, for which it takes CAP_NET_RAW.
func Open() (Conns, error) {
	var all Conns
	for _, network := range []string{"ip4", "ip6"} {
		c, err := net.ListenIP(fmt.Sprintf("%s:%d", network, unix.IPPROTO_SCTP), nil)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err == nil && network == "ip6" {
			err = receiveInfo(c)
			if err != nil {
				c.Close()
			}
		}
		if err != nil {
			all.Close()
			return nil, fmt.Errorf("raw socket for SCTP: %w", err)
		}
		all = append(all, c)
	}
	return all, nil
}

// Claim takes a port of this network namespace until it is released or the
// process ends, as raw sockets have no ports: several servers that answer at one
// would abort each other's associations. It is an error if another server has it.
// The name that stands for it is an abstract one of a Unix socket, which network
// namespaces have each for themselves (network_namespaces(7)).
func Claim(port uint16) (release func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen at SCTP port %d: %w", port, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprint("@vswitch/sctp/", port)}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen at SCTP port %d: %w", port, err)
	}
	return func() { unix.Close(fd) }, nil
}

// receiveInfo has an IPv6 socket say where packets went.
func receiveInfo(c *net.IPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	return errors.Join(err, failed)
}

// Close ends the sockets.
func (all Conns) Close() error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// read waits for a packet at a socket, and returns where it was sent from and
// to. packet is a part of buf.
func read(c *net.IPConn, buf []byte) (packet []byte, from, to netip.Addr, err error) {
	var oob [128]byte
	n, oobn, _, peer, err := c.ReadMsgIP(buf, oob[:])
	if err != nil {
		return nil, from, to, err
	}
	from, _ = netip.AddrFromSlice(peer.IP)
	from = from.Unmap().WithZone(peer.Zone)
	if !from.Is4() {
		return buf[:n], from, destination(oob[:oobn]), nil
	}
	// IPv4 comes with its header.
	if n < 20 || int(buf[0]&15)*4 > n {
		return nil, from, to, nil
	}
	to, _ = netip.AddrFromSlice(buf[16:20])
	return buf[int(buf[0]&15)*4 : n], from, to, nil
}

// destination is where an IPv6 packet went, by its control message.
func destination(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16 {
			return netip.AddrFrom16([16]byte(m.Data))
		}
	}
	return netip.Addr{}
}

// write sends a packet from an address of this namespace.
func write(c *net.IPConn, packet []byte, from, to netip.Addr) error {
	var source []byte
	if from.Is4() {
		source = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
	} else if !from.IsLinkLocalUnicast() { // whose interface says it
		source = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
	}
	_, _, err := c.WriteMsgIP(packet, source, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()})
	return err
}

// Serve answers what comes to the sockets, until they are closed.
func (s *Server) Serve(all Conns) {
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() { s.serve(c) })
	}
	wg.Wait()
}

func (s *Server) serve(c *net.IPConn) {
	buf := make([]byte, 1<<16)
	for {
		packet, from, to, err := read(c, buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of memory, most likely
			continue
		}
		if answer := s.Handle(packet, from, time.Now()); answer != nil {
			_ = write(c, answer, to, from) // what is lost the client asks for again
		}
	}
}
