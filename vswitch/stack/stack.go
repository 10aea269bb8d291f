// Package stack is a pod inside this process: a TCP/IP stack in userspace
// (gVisor's netstack) whose interface is a port of the switch. A Go program
// dials, listens and pings through it as a process in a pod would, on any
// system and without privilege.
//
// It owns the stack's addresses, routes and sockets, and translates between
// batches of packets and gVisor's buffers: superpackets cross whole and
// checksums stay partial in both directions. It is an endpoint and never a
// forwarder: what is not addressed to it is dropped. It is the only package
// that may import gVisor. The switch calls it as a [port.Port]; programs call
// DialContext, Listen, ListenPacket and Ping, from any goroutine.
package stack

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// The interfaces of a stack: the port of the switch, and the way to itself.
const (
	nicID = 1 + iota
	loopbackID
)

// Sizes of socket buffers in bytes.
const (
	minBuffer = 4 << 10
	// udpBuffer holds several datagrams of the largest size.
	udpBuffer    = 1 << 20
	maxUDPBuffer = 4 << 20
	// tcpBuffer is where a connection starts; it grows with the delay and the
	// rate that are measured, to maxTCPBuffer at most.
	tcpBuffer    = 1 << 20
	maxTCPBuffer = 8 << 20
)

// Config describes the interface of a Stack.
type Config struct {
	// Name is whom the stack plays, "shop/web-1", for messages.
	Name string
	// MAC is the interface's Ethernet address; unicast.
	MAC [6]byte
	// Addrs are the interface's addresses. The prefix of each is on link:
	// its addresses are resolved by ARP and ND instead of being sent to the
	// gateway. At least one.
	Addrs []netip.Prefix
	// Gateways are the next hops of everything else, at most one per family
	// of Addrs. They need not be on link.
	Gateways []netip.Addr
	// MTU is the largest IP packet in bytes, 1280 to 65535 with IPv6 and from
	// 68 without. Superpackets may be larger. Zero means 1500.
	MTU int
	// MaxBuffer bounds what a TCP socket holds in each direction, in bytes, at least
	// 4096. Zero means 8 MiB, which it starts with an eighth of.
	MaxBuffer int
	// Queue is how many packets wait for Read at most; what comes then is
	// dropped, as on a network card. Zero means 4096, which is more than
	// one UDP socket's send buffer holds, so that its writer is slowed down
	// before it loses.
	Queue int
}

// DefaultMTU and DefaultQueue stand in for the zero values of a Config.
const (
	DefaultMTU   = 1500
	DefaultQueue = 4096
)

// check completes c and reports all that is wrong with it.
func (c *Config) check() error {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Queue == 0 {
		c.Queue = DefaultQueue
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MaxBuffer == 0 {
		c.MaxBuffer = maxTCPBuffer
	}
	if c.MaxBuffer < minBuffer {
		fail("buffers of at most %d bytes; give at least %d", c.MaxBuffer, minBuffer)
	}
	if c.MAC == ([6]byte{}) || c.MAC[0]&1 != 0 {
		fail("MAC %x is not a unicast address", c.MAC)
	}
	if c.Queue < 0 {
		fail("queue of %d packets; give a positive number", c.Queue)
	}
	if len(c.Addrs) == 0 {
		fail("no address; give at least one")
	}
	seen := make(map[netip.Addr]bool)
	var has4, has6 bool
	for _, p := range c.Addrs {
		a := p.Addr()
		switch {
		case !p.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a.Zone() != "":
			fail("address %v is not a unicast address with a prefix", p)
			continue
		case seen[a]:
			fail("address %v is given twice", a)
		}
		seen[a] = true
		has4, has6 = has4 || a.Is4(), has6 || a.Is6()
	}
	if low := map[bool]int{true: header.IPv6MinimumMTU, false: header.IPv4MinimumMTU}[has6]; c.MTU < low || c.MTU > packet.MaxIP {
		fail("MTU %d; it must be %d to %d", c.MTU, low, packet.MaxIP)
	}
	var gw4, gw6 bool
	for _, g := range c.Gateways {
		switch {
		case !g.IsValid() || g.IsUnspecified() || g.IsMulticast() || g.Is4In6():
			fail("gateway %v is not a unicast address", g)
		case g.Is4() && !has4 || g.Is6() && !has6:
			fail("gateway %v has no address of its family beside it", g)
		case g.Is4() && gw4 || g.Is6() && gw6:
			fail("gateway %v is the second of its family", g)
		}
		gw4, gw6 = gw4 || g.Is4(), gw6 || g.Is6()
	}
	return errors.Join(errs...)
}

// Stack is a pod in this process. It is a [port.Port] and a [port.Notifier] on
// the switch's side, and a network on the program's side. All methods but Read
// may be called from several goroutines at once.
type Stack struct {
	name  string
	stack *stack.Stack
	link  *link

	// mu orders the making of sockets before Close: a socket that is made
	// under a read lock while closed is false is seen and ended by Close.
	mu     sync.RWMutex
	closed bool
	done   chan struct{} // closed by Close
}

var (
	_ port.Port     = (*Stack)(nil)
	_ port.Notifier = (*Stack)(nil)
	_ port.Counted  = (*Stack)(nil)
)

// New returns a stack that is up: its addresses are usable at once (there is no
// duplicate address detection, since addresses are assigned by who knows them
// all), and it answers ARP, ND and echo requests. It must be closed.
func New(cfg Config) (*Stack, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("stack %s: %w", cfg.Name, err)
	}
	s := &Stack{
		name: cfg.Name,
		stack: stack.New(stack.Options{
			NetworkProtocols: []stack.NetworkProtocolFactory{
				arp.NewProtocol,
				ipv4.NewProtocol,
				// Router advertisements are not handled: routes are
				// configured, and any pod could send one.
				ipv6.NewProtocolWithOptions(ipv6.Options{AutoGenLinkLocal: true}),
			},
			TransportProtocols: []stack.TransportProtocolFactory{
				tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
			},
			HandleLocal: true,
		}),
		done: make(chan struct{}),
	}
	s.link = newLink(&cfg, s.stack)
	if err := s.configure(&cfg); err != nil {
		s.Close()
		return nil, fmt.Errorf("stack %s: %w", cfg.Name, err)
	}
	return s, nil
}

// configure sets the protocols' options and brings the interface up.
func (s *Stack) configure(cfg *Config) error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	// Losses are found by SACK, without RACK, which is said to take what is
	// late for lost where round trips are short (google/gvisor issue 9778).
	// It loses no timers: postXmit in tcp/snd.go sets one whenever anything
	// is outstanding. The stalls that look so are of a congestion window that
	// is zero or less (TestCongestionWindow).
	recovery := tcpip.TCPRecovery(0)
	first := min(tcpBuffer, cfg.MaxBuffer)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &recovery,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: first, Max: cfg.MaxBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: first, Max: cfg.MaxBuffer},
	} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set %T: %w", o, errnoOf(err))
		}
	}
	for _, o := range []any{
		tcpip.ReceiveBufferSizeOption{Min: minBuffer, Default: udpBuffer, Max: maxUDPBuffer},
		tcpip.SendBufferSizeOption{Min: minBuffer, Default: stack.DefaultBufferSize, Max: maxUDPBuffer},
	} {
		if err := s.stack.SetOption(o); err != nil {
			return fmt.Errorf("set %T: %w", o, errnoOf(err))
		}
	}
	if err := s.stack.CreateNICWithOptions(nicID, s.link, stack.NICOptions{Name: "eth0"}); err != nil {
		return fmt.Errorf("create interface: %w", errnoOf(err))
	}
	if err := s.stack.CreateNICWithOptions(loopbackID, newLoopback(), stack.NICOptions{Name: "lo"}); err != nil {
		return fmt.Errorf("create loopback interface: %w", errnoOf(err))
	}
	for _, p := range cfg.Addrs {
		a := tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(p.Addr()), PrefixLen: p.Bits()},
		}
		if err := s.stack.AddProtocolAddress(nicID, a, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %v: %w", p, errnoOf(err))
		}
	}
	s.stack.SetRouteTable(routes(cfg))
	return nil
}

// routes returns the route table: the prefixes on link and the default routes.
func routes(cfg *Config) []tcpip.Route {
	var table []tcpip.Route
	add := func(p netip.Prefix, gateway tcpip.Address) {
		p = p.Masked()
		subnet, err := tcpip.NewSubnet(addressOf(p.Addr()), tcpip.MaskFromBytes(mask(p)))
		if err != nil {
			return // p is masked, so it cannot contradict its mask
		}
		table = append(table, tcpip.Route{Destination: subnet, Gateway: gateway, NIC: nicID})
	}
	for _, p := range cfg.Addrs {
		add(p, tcpip.Address{})
	}
	add(netip.MustParsePrefix("fe80::/64"), tcpip.Address{})
	for _, g := range cfg.Gateways {
		add(netip.PrefixFrom(g, 0), addressOf(g))
	}
	return table
}

// mask returns the netmask of p.
func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// Close resets all connections, ends all sockets and returns when nothing of
// the stack runs any more. A switch that goes on reading learns of the resets.
// It may be called more than once.
func (s *Stack) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		<-s.done
		return nil
	}
	s.link.deafen()
	s.stack.Destroy()
	s.link.close()
	close(s.done)
	return nil
}

// isClosed reports whether Close has been called.
func (s *Stack) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// addressOf returns a in gVisor's form.
func addressOf(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// protocolOf returns the network protocol of a's family.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
