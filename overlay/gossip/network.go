package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Network is a network in memory for any number of nodes in one process, with
// loss, delay and partitions. It has no goroutines of its own, and runs in the virtual
// time of testing/synctest. A Network is for one test or one simulated cluster.
type Network struct {
	mu    sync.Mutex
	nodes map[netip.AddrPort]*memTransport
	group map[netip.AddrPort]int
	delay time.Duration
	extra time.Duration
	loss  float64
	tap   func([]byte) // sees every packet; for tests
}

var (
	errRefused = errors.New("connection refused")
	errTimeout = fmt.Errorf("no route: %w", context.DeadlineExceeded)
)

// NewNetwork returns a network without delay and loss.
func NewNetwork() *Network {
	return &Network{nodes: map[netip.AddrPort]*memTransport{}, group: map[netip.AddrPort]int{}}
}

// SetLink sets the delay of a packet, a random addition up to jitter (which
// reorders packets), and the share of packets that are lost (0 to 1). Streams
// are delayed when they are opened, and lose nothing.
func (n *Network) SetLink(delay, jitter time.Duration, loss float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay, n.extra, n.loss = delay, jitter, loss
}

// Partition cuts the network: addresses of different groups do not reach each
// other, and those in no group form one of their own. Without arguments it
// heals. Streams that are open stay open.
func (n *Network) Partition(groups ...[]netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.group)
	for i, g := range groups {
		for _, a := range g {
			n.group[a] = i + 1
		}
	}
}

// Transport returns a transport at addr for Config.Transport. The address is
// free again once the Gossip is closed.
func (n *Network) Transport(addr netip.AddrPort) (memberlist.Transport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.nodes[addr]; ok || !addr.IsValid() {
		return nil, fmt.Errorf("listen on %s: address is in use or invalid", addr)
	}
	t := &memTransport{net: n, addr: addr, packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 64), closed: make(chan struct{})}
	n.nodes[addr] = t
	return t, nil
}

// Packet sends one packet from anywhere, as a stranger could.
func (n *Network) Packet(from, to netip.AddrPort, b []byte) { n.deliver(from, to, b) }

// Dial opens a stream from anywhere, as a stranger could.
func (n *Network) Dial(from, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	t, delay, ok := n.path(from, to)
	if !ok {
		time.Sleep(timeout)
		return nil, fmt.Errorf("dial %s: %w", to, errTimeout)
	}
	time.Sleep(2 * delay)
	if t == nil {
		return nil, fmt.Errorf("dial %s: %w", to, errRefused)
	}
	near, far := net.Pipe()
	select {
	case t.streams <- accepted{far, from}:
		return near, near.SetDeadline(time.Now().Add(timeout))
	case <-t.closed:
		return nil, fmt.Errorf("dial %s: %w", to, errRefused)
	case <-time.After(timeout):
		return nil, fmt.Errorf("dial %s: %w", to, errTimeout)
	}
}

// path returns who listens at to (nil if nobody does), how long the way
// takes, and whether there is one.
func (n *Network) path(from, to netip.AddrPort) (t *memTransport, delay time.Duration, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delay = n.delay
	if n.extra > 0 {
		delay += rand.N(n.extra)
	}
	return n.nodes[to], delay, n.group[from] == n.group[to]
}

func (n *Network) deliver(from, to netip.AddrPort, b []byte) {
	t, delay, ok := n.path(from, to)
	n.mu.Lock()
	lost := n.loss > 0 && rand.Float64() < n.loss
	if n.tap != nil {
		n.tap(b)
	}
	n.mu.Unlock()
	if t == nil || !ok || lost {
		return
	}
	// The receiver decrypts in place, and the sender may reuse its buffer.
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(from)}
	arrive := func() {
		p.Timestamp = time.Now()
		select {
		case t.packets <- p:
		case <-t.closed:
		default: // a full queue drops, as a socket does
		}
	}
	if delay == 0 {
		arrive()
		return
	}
	time.AfterFunc(delay, arrive)
}

// accepted is the far end of a stream, which tells who dialled.
type accepted struct {
	net.Conn
	from netip.AddrPort
}

func (a accepted) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(a.from) }

// memTransport is one address of a Network.
type memTransport struct {
	net     *Network
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

var _ memberlist.NodeAwareTransport = (*memTransport)(nil)

// FinalAdvertiseAddr returns the transport's own address.
func (t *memTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.Addr().AsSlice(), int(t.addr.Port()), nil
}

// WriteTo sends a packet.
func (t *memTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	t.net.deliver(t.addr, to, b)
	return time.Now(), nil
}

// WriteToAddress sends a packet.
func (t *memTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout opens a stream, which must end within timeout.
func (t *memTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return t.net.Dial(t.addr, to, timeout)
}

// DialAddressTimeout opens a stream, which must end within timeout.
func (t *memTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// PacketCh returns what arrives as packets.
func (t *memTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns what arrives as streams.
func (t *memTransport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown frees the address.
func (t *memTransport) Shutdown() error {
	t.once.Do(func() {
		t.net.mu.Lock()
		delete(t.net.nodes, t.addr)
		t.net.mu.Unlock()
		close(t.closed)
		for {
			select {
			case c := <-t.streams:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}
