package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/lab/sctp"
)

// rawClient asks by raw sockets, from one local address: with SCTP, which the
// kernel may not have, and with echo requests. What it knows of both protocols
// is its own.
type rawClient struct {
	local      netip.Addr
	sctp, icmp net.PacketConn
	headers    net.PacketConn // takes packets with their IP headers

	mu      sync.Mutex
	waiting map[uint16]chan rawAnswer // by local port, or the identifier of an echo
}

// rawAnswer is an SCTP packet or an echo reply that came, or the ICMP error that
// came instead.
type rawAnswer struct {
	from   netip.AddrPort
	packet []byte
	err    error
}

func newRawClient(local netip.Addr) (*rawClient, error) {
	ip, icmp := "ip4:", "1"
	if !local.Is4() {
		ip, icmp = "ip6:", "58"
	}
	c := &rawClient{local: local, waiting: map[uint16]chan rawAnswer{}}
	var err1, err2, err3 error
	c.sctp, err1 = net.ListenPacket(ip+"132", local.String())
	c.icmp, err2 = net.ListenPacket(ip+icmp, local.String())
	c.headers, err3 = net.ListenPacket(ip+"255", local.String())
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	go read(c.sctp, c.gotSCTP)
	go read(c.icmp, c.gotICMP)
	return c, nil
}

func read(c net.PacketConn, got func(netip.Addr, []byte)) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		a, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		got(a.Unmap(), append([]byte(nil), buf[:n]...))
	}
}

// pass gives an answer to who waits for it.
func (c *rawClient) pass(port uint16, a rawAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[port]; w != nil {
		select {
		case w <- a:
		default:
		}
	}
}

func (c *rawClient) wait(port uint16) <-chan rawAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := make(chan rawAnswer, 16)
	c.waiting[port] = w
	return w
}

func (c *rawClient) gotSCTP(from netip.Addr, p []byte) {
	if len(p) >= 16 && binary.LittleEndian.Uint32(p[8:]) == sctpChecksum(p) {
		c.pass(binary.BigEndian.Uint16(p[2:]), rawAnswer{from: netip.AddrPortFrom(from, binary.BigEndian.Uint16(p)), packet: p})
	}
}

// gotICMP takes echo replies (RFC 792 and RFC 4443), and errors about what was
// sent.
func (c *rawClient) gotICMP(from netip.Addr, p []byte) {
	echoReply, v6 := byte(0), from.Is6()
	if v6 {
		echoReply = 129
	}
	if len(p) >= 8 && p[0] == echoReply {
		c.pass(binary.BigEndian.Uint16(p[4:]), rawAnswer{from: netip.AddrPortFrom(from, 0), packet: p})
	}
	// An error has the header of what it is about, and eight bytes at least.
	const head = 8
	if len(p) < head+20 || !v6 && p[0] != 3 && p[0] != 11 || v6 && p[0] > 127 {
		return
	}
	inner := p[head:]
	n, proto, at := int(inner[0]&15)*4, inner[9], 16
	if v6 {
		n, proto, at = 40, inner[6], 24
	}
	if len(inner) < n+8 {
		return
	}
	var to netip.Addr
	to, _ = netip.AddrFromSlice(inner[at:n])
	err := fmt.Errorf("ICMP error of type %d, code %d, from %s", p[0], p[1], from)
	if !v6 && p[0] == 3 && p[1] == 3 || v6 && p[0] == 1 && p[1] == 4 {
		err = unix.ECONNREFUSED
	}
	switch l := inner[n:]; proto {
	case 132:
		c.pass(binary.BigEndian.Uint16(l), rawAnswer{from: netip.AddrPortFrom(to, binary.BigEndian.Uint16(l[2:])), err: err})
	case 1, 58:
		c.pass(binary.BigEndian.Uint16(l[4:]), rawAnswer{from: netip.AddrPortFrom(to, 0), err: err})
	}
}

// resend is how long something that was sent has time to be answered before it
// is sent again.
const resend = 200 * time.Millisecond

// sendSCTP sends a packet as the kernel's SCTP would. A node's rule for the node
// ports at its own addresses goes by port, and the kernel does not know a raw
// socket's: then the packet takes the way to another node, a.Via.
func (c *rawClient) sendSCTP(a *ask, p []byte) error {
	if !a.Via.IsValid() {
		_, err := c.sctp.WriteTo(p, &net.IPAddr{IP: a.To.Addr().AsSlice()})
		return err
	}
	const proto, ttl = 132, 64
	var h []byte
	if c.local.Is4() { // the kernel fills in the rest
		h = append(make([]byte, 8), ttl, proto, 0, 0)
		h[0] = 0x45
	} else {
		h = []byte{0x60, 0, 0, 0, byte(len(p) >> 8), byte(len(p)), proto, ttl}
	}
	h = append(append(h, c.local.AsSlice()...), a.To.Addr().AsSlice()...)
	_, err := c.headers.WriteTo(append(h, p...), &net.IPAddr{IP: a.Via.AsSlice()})
	return err
}

// call sends something, again and again until a time, and returns when accept
// takes what comes from to.
func (c *rawClient) call(send func() error, to netip.AddrPort, in <-chan rawAnswer, end time.Time, accept func([]byte) bool) error {
	late := time.After(time.Until(end))
	again := time.NewTicker(resend)
	defer again.Stop()
	if err := send(); err != nil {
		return err
	}
	for {
		select {
		case a := <-in:
			switch {
			case a.from != to:
			case a.err != nil:
				return a.err
			case accept(a.packet):
				return nil
			}
		case <-again.C:
			if err := send(); err != nil {
				return err
			}
		case <-late:
			return os.ErrDeadlineExceeded
		}
	}
}

// echo sends an echo request. Its identifier is what the others' port is.
func (c *rawClient) echo(a *ask, id uint16) error {
	in := c.wait(id)
	p := []byte{8, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
	if !a.To.Addr().Is4() {
		p[0] = 128 // the kernel sees to its checksum
	} else {
		binary.BigEndian.PutUint16(p[2:], ^uint16(0x0800+uint32(id)+1)) // RFC 1071; there is no carry below 0xf7fe
	}
	send := func() error {
		_, err := c.icmp.WriteTo(p, &net.IPAddr{IP: a.To.Addr().AsSlice()})
		return err
	}
	return c.call(send, netip.AddrPortFrom(a.To.Addr(), 0), in, time.Now().Add(a.Limit), func([]byte) bool { return true })
}

// associate makes an SCTP association, says something, and returns the answer; it
// then aborts the association (RFC 9260 sections 5.1 and 9.1).
func (c *rawClient) associate(a *ask, port uint16) (answer []byte, err error) {
	in := c.wait(port)
	const ours, tsn = 0x5eed0001, 77
	var theirs uint32
	var cookie []byte
	refused := false
	init := []byte{1, 0, 0, 20, ours >> 24, ours >> 16 & 255, ours >> 8 & 255, ours & 255, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, tsn}
	say := func(tag uint32, chunks []byte) func() error {
		p := sctpPacket(port, a.To.Port(), tag, chunks)
		return func() error { return c.sendSCTP(a, p) }
	}
	err = c.call(say(0, init), a.To, in, time.Now().Add(a.Limit), func(p []byte) bool {
		if binary.BigEndian.Uint32(p[4:]) != ours {
			return false
		}
		refused = p[12] == 6
		if ack := p[12:]; ack[0] == 2 && len(ack) >= 24 && binary.BigEndian.Uint16(ack[20:]) == 7 {
			if n := int(binary.BigEndian.Uint16(ack[22:])); n >= 4 && n <= len(ack)-20 {
				theirs, cookie = binary.BigEndian.Uint32(ack[4:]), ack[24:20+n]
			}
		}
		return refused || cookie != nil
	})
	if err == nil && refused {
		err = unix.ECONNREFUSED
	}
	if err != nil {
		return nil, err
	}
	echo := append([]byte{10, 0, byte((len(cookie) + 4) >> 8), byte(len(cookie) + 4)}, cookie...)
	echo = append(echo, make([]byte, -len(echo)&3)...)
	echo = append(echo, 0, 3, 0, 18, 0, 0, 0, tsn, 0, 0, 0, 0, 0, 0, 0, 0, 'h', 'i', 0, 0)
	// Who has answered once must go on.
	err = c.call(say(theirs, echo), a.To, in, time.Now().Add(answerWithin), func(p []byte) bool {
		if binary.BigEndian.Uint32(p[4:]) != ours {
			return false
		}
		for p = p[12:]; len(p) >= 4; {
			n := int(binary.BigEndian.Uint16(p[2:]))
			if n < 4 || n > len(p) {
				break
			}
			if p[0] == 0 && n > 16 {
				answer = p[16:n]
			}
			p = p[min((n+3)&^3, len(p)):]
		}
		return answer != nil
	})
	_ = say(theirs, []byte{6, 0, 0, 4})() // nobody needs it
	if err != nil {
		return nil, fmt.Errorf("INIT was answered, a cookie was not: %v", err)
	}
	return answer, nil
}

// dialSCTP connects by the kernel's SCTP, which is to be used where there is one:
// it aborts what a raw socket begins.
func dialSCTP(local, to netip.AddrPort, end time.Time) (net.Conn, error) {
	family, level, option := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	sockaddr := func(a netip.AddrPort) unix.Sockaddr {
		if a.Addr().Is4() {
			return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
		}
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	if to.Addr().Is4() {
		family, level, option = unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close()
	// Without the option, ICMP errors count only after many INITs.
	if err := errors.Join(unix.SetsockoptInt(fd, level, option, 1), unix.Bind(fd, sockaddr(local))); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		return nil, err
	}
	for n := 0; n == 0; {
		left := time.Until(end).Milliseconds()
		if left <= 0 {
			return nil, os.ErrDeadlineExceeded
		}
		if n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left)); err != nil && err != unix.EINTR {
			return nil, err
		}
	}
	if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		return nil, errors.Join(err, unix.Errno(code))
	}
	return net.FileConn(f)
}

// testSCTP says something to an SCTP server and prints its answer.
func testSCTP(local, server string) int {
	a := &ask{Local: netip.MustParseAddr(local), To: netip.MustParseAddrPort(server), Limit: answerWithin}
	answer, err := a.sayBySCTP()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	os.Stdout.Write(answer)
	return 0
}

func (a *ask) sayBySCTP() ([]byte, error) {
	const port = 40000
	if !sctp.InKernel() {
		c, err := newRawClient(a.Local)
		if err != nil {
			return nil, err
		}
		return c.associate(a, port)
	}
	c, err := dialSCTP(netip.AddrPortFrom(a.Local, port), a.To, time.Now().Add(a.Limit))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(a.Limit))
	if _, err := c.Write([]byte("hi")); err != nil {
		return nil, err
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	return buf[:n], err
}

func sctpPacket(from, to uint16, tag uint32, chunks []byte) []byte {
	p := make([]byte, 12, 12+len(chunks))
	binary.BigEndian.PutUint16(p, from)
	binary.BigEndian.PutUint16(p[2:], to)
	binary.BigEndian.PutUint32(p[4:], tag)
	p = append(p, chunks...)
	binary.LittleEndian.PutUint32(p[8:], sctpChecksum(p))
	return p
}

func sctpChecksum(p []byte) uint32 {
	zeroed := append([]byte(nil), p...)
	copy(zeroed[8:12], []byte{0, 0, 0, 0})
	return crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli))
}
