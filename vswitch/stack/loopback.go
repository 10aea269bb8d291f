package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	lo "gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// loopback is the interface by which a stack reaches its own addresses. Without
// one, gVisor turns such packets round above all links, where nothing stands
// between its TCP receivers ([windows]).
type loopback struct {
	stack.LinkEndpoint // gVisor's, which delivers at once
	windows            windows
}

func newLoopback() *loopback { return &loopback{LinkEndpoint: lo.New()} }

// WritePackets implements [stack.LinkWriter].
func (l *loopback) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		l.windows.offer(pkt)
		l.windows.admitOwn(pkt)
	}
	return l.LinkEndpoint.WritePackets(list)
}
