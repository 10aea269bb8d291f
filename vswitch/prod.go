package vswitch

import (
	"math/rand/v2"

	"vswitch/nat"
	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// A client that waits for the answer of a pod that is gone sends nothing, so it
// would never be told. It is prodded: it gets an ACK that cannot belong to its
// connection, which it has to answer with one of its own (RFC 9293 3.10.7.4).
// That one is refused as all packets to who is gone are, with an RST whose
// sequence number is right because the ACK told it. An RST at once would need a
// sequence number that nobody here knows (RFC 5961 3.2).

// A Prod is one end of a TCP connection to be prodded.
type Prod struct {
	// As is the packet's tuple: from the end that is gone, as the other one
	// knows it, to the other one.
	As packet.Tuple
	// Via is the PeerID of the node that the packet goes through whatever the
	// routes say; 0: they say it.
	Via uint32
}

// ProdClient prods the end that began a connection, and ProdServer the other.
func ProdClient(c *nat.Info) Prod {
	p := Prod{As: c.Orig.Reverse()}
	if c.Zone == translator {
		p.Via = c.Via
	}
	return p
}

// ProdServer prods the end that answers.
func ProdServer(c *nat.Info) Prod {
	p := Prod{As: c.Reply.Reverse()}
	if c.Zone == ingress {
		p.Via = c.Via
	}
	return p
}

// MaxProds is the most that Prod takes at once.
const MaxProds = packet.BatchSize

// Prod prods ends of TCP connections, at most MaxProds. It returns when the
// packets are sent; those to whom there is no way are not.
func (s *Switch) Prod(list []Prod) {
	w := s.workers[0]
	w.do(func() {
		if w.stopped.Load() {
			return // nobody else may use what is the worker's while it ends
		}
		w.tables = s.tables.Load()
		for i := range list {
			w.prod(&list[i])
		}
		w.flush(w.made, &w.outMade)
		w.made.Reset()
	})
}

func (w *worker) prod(p *Prod) {
	var hop *fib.Hop
	if p.Via == 0 {
		hop = w.tables.Routes.Lookup(&p.As.Dst)
	} else if peer := w.tables.peerByID(p.Via); peer != nil {
		hop = peer.Hop
	}
	if hop == nil || p.As.Proto != packet.ProtoTCP {
		return
	}
	src := w.tables.GatewayMAC
	switch hop.Kind {
	case fib.Pod, fib.Host, fib.Outside:
	case fib.Peer:
		src = w.tables.VTEPMAC
	default:
		return
	}
	buf := w.room()
	// Both numbers are wrong but for one chance in thousands each, and one of
	// them is enough.
	q := w.made.Add(w.made.Next(), packet.BareAck(buf, &p.As, rand.Uint32(), rand.Uint32()))
	q.Out, q.Peer, q.Hash = hop.Port, hop.Peer, p.As.Hash(w.seed)
	w.made.SetEthernet(q, &hop.MAC, &src)
	w.outMade.add(q.Out, q, len(w.made.Packets)-1)
}
