package nat

import (
	"errors"

	"vswitch/vswitch/packet"
)

// ErrNoPort: every source port that was tried is in use towards that
// destination.
var ErrNoPort = errors.New("no free source port")

// portTries bounds the search for a free source port. As in Linux
// (net/netfilter/nf_nat_core.c), a full range fails fast instead of being
// searched to its end: with one port in 64 free, seven of eight searches find it.
const portTries = 128

// Masquerade makes a connection whose source is translated to the address that
// m.Reply.Dst says. The client's port is kept where that is free; or else
// another one above 1023 is found, which m.Reply tells afterwards. Errors are
// those of CreateMapped, and ErrNoPort.
func (t *Table) Masquerade(orig *packet.Tuple, m *Mapping, now uint32) (ID, error) {
	return t.masquerade(orig, m, noEvent, now)
}

// Begin is Masquerade for a packet that begins the connection, and Track of that
// packet; event is as there. It takes no locks beside those that Masquerade takes.
func (t *Table) Begin(orig *packet.Tuple, m *Mapping, event uint8, now uint32) (ID, error) {
	return t.masquerade(orig, m, int(event), now)
}

func (t *Table) masquerade(orig *packet.Tuple, m *Mapping, event int, now uint32) (ID, error) {
	for try := range uint32(portTries + 1) {
		if try > 0 {
			t.setPort(orig, m, try)
		}
		id, err := t.create(orig, m, event, now)
		if err == nil || !errors.Is(err, ErrExists) || t.has(id, orig) {
			return id, err
		}
		if orig.SrcPort == 0 { // no ports, or nobody to tell apart by them
			break
		}
	}
	t.stats.noPort.Add(1)
	return 0, ErrNoPort
}

// setPort gives the translated source the port of that try: a walk through the
// range from a secret place, with a secret odd stride.
func (t *Table) setPort(orig *packet.Tuple, m *Mapping, try uint32) {
	const first, count = 1024, 65536 - 1024
	h := orig.Hash(t.seed)
	stride := uint32(h>>40)<<1 | 1
	m.Reply.DstPort = uint16(first + (uint32(h)+try*stride)%count)
	if orig.Proto == packet.ProtoICMP || orig.Proto == packet.ProtoICMPv6 {
		m.Reply.SrcPort = m.Reply.DstPort
	}
}

// has reports whether the connection's original tuple is orig.
func (t *Table) has(id ID, orig *packet.Tuple) bool {
	e, a, b, ok := t.hold(id)
	if !ok {
		return false
	}
	same := sameTuple(&e.orig, orig)
	t.unlock(a, b)
	return same
}
