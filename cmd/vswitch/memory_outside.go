package main

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/stack"
)

// memoryOutside is a client outside of a fabric, and the router between it and
// the nodes: what is for a node's address goes to that node, all else to one of
// them, by flow.
type memoryOutside struct {
	client *stack.Stack
	wg     sync.WaitGroup

	mu    sync.Mutex // guards nodes
	nodes []memoryUplink
}

type memoryUplink struct {
	addrs []netip.Addr
	mac   [6]byte
	end   *port.PipeEnd
}

// The client's and the router's addresses. IPv4 is enough for the demo.
var (
	memoryClient    = netip.MustParsePrefix("203.0.113.10/24")
	memoryRouter    = netip.MustParseAddr("203.0.113.1")
	memoryClientMAC = [6]byte{2, 'o', 'u', 't', 0, 1}
	memoryRouterMAC = [6]byte{2, 'o', 'u', 't', 0, 2}
)

func newMemoryOutside() (*memoryOutside, error) {
	client, err := stack.New(stack.Config{
		Name: outsideClient, MAC: memoryClientMAC, Addrs: []netip.Prefix{memoryClient}, Gateways: []netip.Addr{memoryRouter}, MTU: 1450,
	})
	if err != nil {
		return nil, err
	}
	o := &memoryOutside{client: client}
	o.pump(client, o.send)
	return o, nil
}

// connect makes the way to a node.
func (o *memoryOutside) connect(n *fabric.Node) error {
	end, err := n.Outside(memoryClientMAC, 1450, memoryClient.Masked())
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.nodes = append(o.nodes, memoryUplink{n.Address, agent.MACOf(agent.Gateway(n.PodCIDRs[0])), end})
	o.mu.Unlock()
	o.pump(end, func(b *packet.Batch, p int) { _, _ = o.client.Write(b, []uint16{uint16(p)}) })
	return nil
}

// readable is a port that says when it can be read.
type readable interface {
	port.Port
	port.Notifier
}

// pump gives what can be read from a port to f, a packet at a time, until the
// port is closed.
func (o *memoryOutside) pump(from readable, f func(b *packet.Batch, p int)) {
	wake := make(chan struct{}, 1)
	from.Notify(func() {
		select {
		case wake <- struct{}{}:
		default: // it will be read anyway
		}
	})
	o.wg.Go(func() {
		b := packet.NewBatch()
		defer b.Close()
		for {
			b.Reset()
			n, err := from.Read(b, packet.BatchSize)
			for i := range n {
				b.Parse(&b.Packets[i])
				f(b, i)
			}
			if err != nil {
				return
			}
			if n == 0 {
				<-wake
			}
		}
	})
}

// send takes a packet from the client to a node, or answers it as its router.
func (o *memoryOutside) send(b *packet.Batch, i int) {
	p := &b.Packets[i]
	if p.Class == packet.ARP {
		o.answerARP(b, i)
		return
	}
	n, ok := o.route(&p.Tuple)
	if !ok {
		return
	}
	b.SetEthernet(p, &n.mac, &memoryRouterMAC)
	_, _ = n.end.Write(b, []uint16{uint16(i)}) // what it does not take is lost, as on any network
}

// route chooses the node that a packet goes to.
func (o *memoryOutside) route(t *packet.Tuple) (memoryUplink, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	to := t.Dst.Netip()
	for _, n := range o.nodes {
		if slices.Contains(n.addrs, to) {
			return n, true
		}
	}
	if len(o.nodes) == 0 {
		return memoryUplink{}, false
	}
	h := fnv.New64a()
	h.Write(t.Dst[:])
	h.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, t.SrcPort), t.DstPort))
	// The low bits of FNV are too close to its input.
	return o.nodes[(h.Sum64()>>32)%uint64(len(o.nodes))], true
}

// answerARP says the router's MAC to whoever asks for its address (RFC 826).
func (o *memoryOutside) answerARP(b *packet.Batch, i int) {
	f := b.Frame(&b.Packets[i])
	const request, size = 1, packet.EthernetLen + 28
	if len(f) < size {
		return
	}
	arp := f[packet.EthernetLen:]
	target, _ := netip.AddrFromSlice(arp[24:28])
	if binary.BigEndian.Uint16(arp[6:]) != request || target != memoryRouter {
		return
	}
	b.SetEthernet(&b.Packets[i], &memoryClientMAC, &memoryRouterMAC)
	arp[7] = 2 // reply
	copy(arp[18:28], arp[8:18])
	copy(arp[8:], memoryRouterMAC[:])
	router := memoryRouter.As4()
	copy(arp[14:], router[:])
	_, _ = o.client.Write(b, []uint16{uint16(i)})
}

func (o *memoryOutside) close() error {
	errs := []error{o.client.Close()}
	o.mu.Lock()
	for _, n := range o.nodes {
		errs = append(errs, n.end.Close())
	}
	o.mu.Unlock()
	o.wg.Wait()
	return errors.Join(errs...)
}
