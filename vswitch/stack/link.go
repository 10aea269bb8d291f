package stack

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vswitch/vswitch/packet"
)

// link is the Ethernet interface between gVisor and the port. Outbound it is a
// bounded queue of gVisor's buffers, inbound a lock around the delivery.
type link struct {
	stack *stack.Stack
	mac   tcpip.LinkAddress
	mtu   uint32
	gso   uint32 // GSOMaxSize
	limit int    // packets that wait at most
	lost  losses

	windows windows

	dispatcher atomic.Pointer[stack.NetworkDispatcher]

	// rxMu serializes deliveries, because gVisor takes the word that a packet
	// needs no verification from the interface (Capabilities) and not from
	// the packet.
	rxMu     sync.Mutex
	deaf     bool        // nothing is delivered any more; guarded by rxMu
	verified atomic.Bool // the packet being delivered needs no verification
	scratch  []byte      // for the header of a datagram; guarded by rxMu

	// readMu belongs to the one who reads.
	readMu sync.Mutex
	out    []*stack.PacketBuffer // taken from in, not yet read
	next   int                   // in out

	mu     sync.Mutex
	in     []*stack.PacketBuffer // written by the stack
	unread atomic.Int32          // packets in in and out
	idle   bool                  // both are empty: the next packet wakes
	closed bool
	wake   func()
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(cfg *Config, s *stack.Stack) *link {
	return &link{
		stack:   s,
		mac:     tcpip.LinkAddress(cfg.MAC[:]),
		mtu:     uint32(cfg.MTU),
		gso:     gsoMaxSize(cfg.MTU),
		limit:   cfg.Queue,
		scratch: make([]byte, packet.MaxFrame),
		idle:    true,
	}
}

// Limits of one send of the overlay (UDP_SEGMENT): bytes in all, and what
// VXLAN and the inner Ethernet header add to a packet.
const (
	overlaySend = 65493
	overlayAdds = 22
)

// gsoMaxSize returns the largest TCP payload that gVisor may put into one
// superpacket, in gVisor's measure. One superpacket should be one send of the
// overlay: 44 segments at an MTU of 1450.
func gsoMaxSize(mtu int) uint32 {
	segments := max(overlaySend/(mtu+overlayAdds), 1)
	// gVisor's segments leave room for all the options that TCP may have.
	payload := segments * (mtu - header.IPv4MinimumSize - header.TCPHeaderMaximumSize)
	// IPv6 and TCP with all options must fit into the frame, too.
	payload = min(payload, packet.MaxIP-header.IPv6MinimumSize-header.TCPHeaderMaximumSize)
	// The sender subtracts this again (tcp/snd.go, sendData).
	return uint32(max(payload, 0)) + header.TCPTotalHeaderMaximumSize + 1
}

// WritePackets implements [stack.LinkWriter]. A packet that finds the queue
// full is dropped without an error, as a network card would.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	pkts := list.AsSlice()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, &tcpip.ErrClosedForSend{}
	}
	for i, pkt := range pkts {
		if int(l.unread.Load()) >= l.limit {
			l.lost.rxFull.Add(uint64(len(pkts) - i))
			break
		}
		l.windows.offer(pkt)
		// The reference keeps the packet charged to its socket, which slows
		// down who writes faster than the switch reads.
		l.in = append(l.in, pkt.IncRef())
		l.unread.Add(1)
	}
	var wake func()
	if l.idle && len(l.in) > 0 {
		l.idle = false
		wake = l.wake
	}
	l.mu.Unlock()
	if wake != nil {
		wake()
	}
	return len(pkts), nil
}

// pop returns the next packet that waits, or nil. The caller holds readMu and
// owns the packet.
func (l *link) pop() *stack.PacketBuffer {
	if l.next == len(l.out) {
		l.mu.Lock()
		l.out, l.in = l.in, l.out[:0]
		l.mu.Unlock()
		l.next = 0
		if len(l.out) == 0 {
			return nil
		}
	}
	pkt := l.out[l.next]
	l.out[l.next] = nil
	l.next++
	l.unread.Add(-1)
	return pkt
}

// rest notes whether anything waits, so that the packet that ends the silence
// wakes, and reports it. The caller holds readMu.
func (l *link) rest() (waiting, closed bool, wake func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = l.next == len(l.out) && len(l.in) == 0
	return !l.idle, l.closed, l.wake
}

// notify sets the waker and calls it if there is something to say.
func (l *link) notify(wake func()) {
	l.mu.Lock()
	l.wake = wake
	call := !l.idle || l.closed
	l.mu.Unlock()
	if call && wake != nil {
		wake()
	}
}

// deafen ends deliveries: when it returns, none is under way.
func (l *link) deafen() {
	l.rxMu.Lock()
	l.deaf = true
	l.rxMu.Unlock()
}

// close refuses further packets and wakes the reader, who still gets those
// that wait.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	wake := l.wake
	l.mu.Unlock()
	if wake != nil {
		wake()
	}
}

// Attach implements [stack.NetworkLinkEndpoint].
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// IsAttached implements [stack.NetworkLinkEndpoint].
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

// Capabilities implements [stack.NetworkLinkEndpoint]. Transmit checksum
// offload is not among them: gVisor would send UDP fragments without a
// checksum, which IPv6 forbids. TCP gets partial checksums through GSO.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	if l.verified.Load() {
		return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
	}
	return stack.CapabilityResolutionRequired
}

// AddHeader implements [stack.NetworkLinkEndpoint].
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements [stack.NetworkLinkEndpoint].
func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// GSOMaxSize implements [stack.GSOEndpoint].
func (l *link) GSOMaxSize() uint32 { return l.gso }

// SupportedGSO implements [stack.GSOEndpoint].
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// MTU implements [stack.NetworkLinkEndpoint].
func (l *link) MTU() uint32 { return l.mtu }

// LinkAddress implements [stack.NetworkLinkEndpoint].
func (l *link) LinkAddress() tcpip.LinkAddress { return l.mac }

// MaxHeaderLength implements [stack.NetworkLinkEndpoint].
func (l *link) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// ARPHardwareType implements [stack.NetworkLinkEndpoint].
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// SetMTU and SetLinkAddress implement [stack.NetworkLinkEndpoint]. Both are
// fixed by the Config.
func (l *link) SetMTU(uint32) {}

// SetLinkAddress does nothing; see SetMTU.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Wait, Close and SetOnCloseAction implement [stack.NetworkLinkEndpoint]. The
// link has no goroutine, and Stack.Close closes it.
func (l *link) Wait() {}

// Close does nothing; see Wait.
func (l *link) Close() {}

// SetOnCloseAction does nothing; see Wait.
func (l *link) SetOnCloseAction(func()) {}
