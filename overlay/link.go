package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"vswitch/vswitch/packet"
)

// Config describes a link.
type Config struct {
	// Local is the address and UDP port on which the link receives. It sends
	// from the same address. The address may be unspecified; a port of 0
	// takes a free one.
	Local netip.AddrPort
	// VNI is the VXLAN network identifier, 24 bits; flannel's is 1.
	VNI uint32
	// MTU is the largest inner IP packet in bytes (InnerMTU). 0: what fits an
	// underlay with an MTU of 1500.
	MTU int
	// Sockets is the number of sockets to send from, at most 16; 0 is 4. Flows
	// are spread over them, so that routers and network cards, which look at
	// outer ports, spread them too.
	Sockets int
	// Offload uses UDP_SEGMENT and UDP_GRO where the system has them.
	Offload bool
	// RecvBuffer and SendBuffer are the sizes of the socket buffers to ask
	// for, in bytes; 0 is 4 MiB. The system may give less (net.core.rmem_max
	// on Linux); Link.RecvBuffer tells.
	RecvBuffer, SendBuffer int
}

// Defaults and bounds of Config.
const (
	defaultSockets = 4
	maxSockets     = 16
	defaultBuffer  = 4 << 20
	defaultMTU     = 1500
)

// check returns c with defaults filled in, or all that is wrong with it.
func (c Config) check() (Config, error) {
	var errs []error
	if !c.Local.Addr().IsValid() {
		errs = append(errs, errors.New("no local address"))
	}
	c.Local = netip.AddrPortFrom(c.Local.Addr().Unmap(), c.Local.Port())
	if c.Local.Addr().Zone() != "" {
		errs = append(errs, fmt.Errorf("%s is an address with a zone; use a global or unique local one", c.Local.Addr()))
	}
	if c.VNI > MaxVNI {
		errs = append(errs, fmt.Errorf("VNI %d does not fit 24 bits", c.VNI))
	}
	if c.MTU == 0 {
		c.MTU = InnerMTU(c.Local.Addr(), defaultMTU)
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		errs = append(errs, fmt.Errorf("MTU %d is outside %d..%d", c.MTU, minMTU, maxMTU))
	}
	if c.Sockets == 0 {
		c.Sockets = defaultSockets
	}
	if c.Sockets < 1 || c.Sockets > maxSockets {
		errs = append(errs, fmt.Errorf("%d sockets are outside 1..%d", c.Sockets, maxSockets))
	}
	for _, n := range []*int{&c.RecvBuffer, &c.SendBuffer} {
		if *n == 0 {
			*n = defaultBuffer
		}
		if *n < 0 || *n > 1<<30 {
			errs = append(errs, fmt.Errorf("socket buffer of %d bytes is outside 1..%d", *n, 1<<30))
		}
	}
	return c, errors.Join(errs...)
}

// endpoint is what links of all systems have in common.
type endpoint struct {
	cfg    Config
	local  netip.AddrPort // as bound
	ports  []uint16       // of the sockets that send
	header uint64         // of every datagram
	peers  atomic.Pointer[peerTable]
	drops  [numDrops]atomic.Uint64

	recvBuffer, sendBuffer int // as given

	mu     sync.Mutex // guards lastID and the replacement of peers
	lastID uint16
}

// init makes e ready. It is called once, before e is shared.
func (e *endpoint) init(cfg Config) {
	e.cfg = cfg
	e.header = header(cfg.VNI)
	e.peers.Store(new(peerTable))
}

// LocalAddr returns the address and port on which the link receives.
func (e *endpoint) LocalAddr() netip.AddrPort { return e.local }

// SourcePorts returns the UDP ports that the link sends from, for peers that
// can tell nodes apart by nothing else (Peer.SourcePorts).
func (e *endpoint) SourcePorts() []uint16 { return append([]uint16(nil), e.ports...) }

// MTU returns the largest inner IP packet in bytes.
func (e *endpoint) MTU() int { return e.cfg.MTU }

// VNI returns the network identifier.
func (e *endpoint) VNI() uint32 { return e.cfg.VNI }

// RecvBuffer returns the size of the receive buffer that the system gave, in
// bytes of its own accounting, 0 if it does not tell. Linux counts twice what
// was asked for; a superpacket of 64 KiB takes about 70 KiB of it.
func (e *endpoint) RecvBuffer() int { return e.recvBuffer }

// SendBuffer returns the size of the send buffer of each socket, as RecvBuffer.
func (e *endpoint) SendBuffer() int { return e.sendBuffer }

// sendable returns why p cannot be sent, or dropNone.
func (e *endpoint) sendable(p *packet.Packet, to *peer) Drop {
	switch {
	case to == nil:
		return DropNoPeer
	case p.WireLen() > e.cfg.MTU:
		return DropTooBig
	case p.Len < packet.EthernetLen || p.Off < HeaderLen:
		return DropMalformed
	}
	return dropNone
}

// listenError says what failed and what to do about it.
func listenError(a netip.AddrPort, err error) error {
	return fmt.Errorf("vxlan link on %s: %w", a, err)
}
