package vswitch

import (
	"sync/atomic"

	"vswitch/vswitch/port"
)

// attached is a port in use. Fields without a comment are set once.
type attached struct {
	id     uint16
	name   string
	port   port.Port
	worker *worker // the one that reads it

	bursts bool        // the port is a Burster
	budget int         // how many frames the next read may take; the worker's
	rung   atomic.Bool // a Notifier has something, and the worker has been told
	gone   bool        // the port died; the worker's

	rxPackets, rxBytes, txPackets, txBytes atomic.Uint64
	drops                                  [numReasons]atomic.Uint64
}

// Counters of one port. Rx is what the port delivered to the switch. Packets
// and bytes are of the wire: a superpacket counts as its segments. Drops are
// of packets that came in by the port.
type Counters struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	Drops              map[Reason]uint64
}

// Counters returns those of a port; all zero if there is none.
func (s *Switch) Counters(id uint16) Counters {
	a := s.port(id)
	if a == nil {
		return Counters{}
	}
	c := Counters{
		RxPackets: a.rxPackets.Load(), RxBytes: a.rxBytes.Load(),
		TxPackets: a.txPackets.Load(), TxBytes: a.txBytes.Load(),
		Drops: map[Reason]uint64{},
	}
	addDrops(c.Drops, &a.drops)
	return c
}

// Drops returns all drops by reason since the switch was made.
func (s *Switch) Drops() map[Reason]uint64 {
	sum := map[Reason]uint64{}
	addDrops(sum, &s.drops)
	for _, a := range *s.ports.Load() {
		if a != nil {
			addDrops(sum, &a.drops)
		}
	}
	return sum
}

func addDrops(sum map[Reason]uint64, drops *[numReasons]atomic.Uint64) {
	for r := range numReasons {
		if n := drops[r].Load(); n != 0 && r != Forwarded && r != Answered {
			sum[r] += n
		}
	}
}
