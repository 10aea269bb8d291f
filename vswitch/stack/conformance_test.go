package stack

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// TestPort is the test of all drivers. The peer stands where gVisor's network
// layer is: it sends and receives frames of its own.
func TestPort(t *testing.T) {
	porttest.Run(t, func(t *testing.T, mtu int) (port.Port, porttest.Peer) {
		s, err := New(Config{
			Name: "test/port", MAC: porttest.PeerMAC, MTU: mtu,
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24"), netip.MustParsePrefix("fd99::1/64")},
		})
		if err != nil {
			t.Fatal(err)
		}
		e := &end{stack: s, frames: make(chan porttest.Frame, 1<<16)}
		s.link.Attach(e)
		return &watched{Stack: s, end: e}, e
	})
}

// watched is a stack whose peer knows the descriptor of what it receives.
type watched struct {
	*Stack
	mu  sync.Mutex
	end *end
}

func (w *watched) Write(b *packet.Batch, idx []uint16) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range idx {
		w.end.meta = b.Packets[idx[k]]
		m, err := w.Stack.Write(b, idx[k:k+1])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// end takes the place of gVisor's network layer.
type end struct {
	stack  *Stack
	meta   packet.Packet // of the packet being delivered
	frames chan porttest.Frame
}

// DeliverNetworkPacket implements [stack.NetworkDispatcher].
func (e *end) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	data := make([]byte, pkt.Size())
	gather(data, pkt)
	m := e.meta
	m.Stride = 0
	if m.GSO == packet.GSOUDPL4 { // these come one by one
		m = packet.Packet{Flags: packet.NeedsCsum, CsumStart: m.HdrLen - 8, CsumOffset: 6}
	}
	e.frames <- porttest.Frame{Data: data, Meta: m}
}

// DeliverLinkPacket implements [stack.NetworkDispatcher].
func (e *end) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// Caps implements [porttest.Peer].
func (e *end) Caps() porttest.Caps {
	return porttest.Caps{Offload: true, MaxMTU: packet.MaxIP}
}

// Close implements [porttest.Peer].
func (e *end) Close() error { return nil }

// Recv implements [porttest.Peer].
func (e *end) Recv(wait time.Duration) (porttest.Frame, bool) {
	select {
	case f := <-e.frames:
		return f, true
	case <-time.After(wait):
		return porttest.Frame{}, false
	}
}

// Send implements [porttest.Peer]: as gVisor does, TCP with offloads, and all
// else complete.
func (e *end) Send(f porttest.Frame) error {
	l4, typ, proto := 34, stack.GSOTCPv4, f.Data[23]
	if f.Data[12] == 0x86 {
		l4, typ, proto = 54, stack.GSOTCPv6, f.Data[20]
	}
	if f.Meta.Flags&packet.NeedsCsum == 0 || proto != packet.ProtoTCP {
		wire, err := porttest.Wire(f)
		for _, data := range wire {
			err = errors.Join(err, e.put(data, l4, stack.GSO{}))
		}
		return err
	}
	mss := f.Meta.GSOSize
	if f.Meta.GSO == packet.GSONone {
		mss = 65535
	}
	return e.put(f.Data, l4, stack.GSO{Type: typ, NeedsCsum: true, CsumOffset: 16, MSS: mss})
}

func (e *end) put(data []byte, l4 int, gso stack.GSO) error {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(data)})
	defer pkt.DecRef()
	pkt.LinkHeader().Consume(packet.EthernetLen)
	pkt.NetworkHeader().Consume(l4 - packet.EthernetLen)
	if gso.Type != stack.GSONone {
		pkt.TransportHeader().Consume(int(data[l4+12]>>4) * 4)
	}
	pkt.GSOOptions = gso
	var list stack.PacketBufferList
	list.PushBack(pkt)
	if _, err := e.stack.link.WritePackets(list); err != nil {
		return errnoOf(err)
	}
	return nil
}
