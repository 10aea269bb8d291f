package port

import (
	"sync/atomic"

	"vswitch/vswitch/packet"
)

// Stats counts what a port lost, in packets; a superpacket is one. What it
// carried is counted by the switch.
type Stats struct {
	// RxShort: frames shorter than an Ethernet header.
	RxShort uint64
	// RxLong: frames longer than packet.MaxFrame.
	RxLong uint64
	// RxInvalid: frames whose offload header or framing made no sense.
	RxInvalid uint64
	// RxErrors: reads that failed otherwise.
	RxErrors uint64

	// TxTooBig: packets larger than the MTU.
	TxTooBig uint64
	// TxFull: packets that found the queue full.
	TxFull uint64
	// TxDown: packets that found nobody: the interface was down, or no virtual
	// machine was connected.
	TxDown uint64
	// TxInvalid: packets that the other end cannot take, or refused as malformed.
	TxInvalid uint64
	// TxErrors: writes that failed otherwise.
	TxErrors uint64
}

// RxLost returns the sum of what was lost on the way in.
func (s Stats) RxLost() uint64 { return s.RxShort + s.RxLong + s.RxInvalid + s.RxErrors }

// TxLost returns the sum of what was lost on the way out.
func (s Stats) TxLost() uint64 {
	return s.TxTooBig + s.TxFull + s.TxDown + s.TxInvalid + s.TxErrors
}

// Counted is a port that counts its losses. All drivers of this package are.
type Counted interface {
	// Stats may be called from any goroutine, also after Close.
	Stats() Stats
}

// counters is the living form of Stats. They are touched only by packets that
// are lost, so nothing is gained by padding them apart.
type counters struct {
	rxShort, rxLong, rxInvalid, rxErrors          atomic.Uint64
	txTooBig, txFull, txDown, txInvalid, txErrors atomic.Uint64
}

// Stats returns what the port lost so far.
func (c *counters) Stats() Stats {
	return Stats{
		RxShort:   c.rxShort.Load(),
		RxLong:    c.rxLong.Load(),
		RxInvalid: c.rxInvalid.Load(),
		RxErrors:  c.rxErrors.Load(),
		TxTooBig:  c.txTooBig.Load(),
		TxFull:    c.txFull.Load(),
		TxDown:    c.txDown.Load(),
		TxInvalid: c.txInvalid.Load(),
		TxErrors:  c.txErrors.Load(),
	}
}

// fits reports whether p may be sent to an end with that MTU, and counts it as
// lost if not.
func (c *counters) fits(p *packet.Packet, mtu int) bool {
	switch {
	case p.WireLen() > mtu, p.Len > packet.MaxFrame:
		c.txTooBig.Add(1)
	case p.Len < packet.EthernetLen, p.GSO != packet.GSONone && (p.GSOSize == 0 || p.Len < uint32(p.HdrLen)):
		c.txInvalid.Add(1)
	default:
		return true
	}
	return false
}
