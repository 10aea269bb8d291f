package packet

import (
	"encoding/binary"
	"math/bits"
)

// ClampMSS lowers the MSS option of a TCP SYN so that full segments fit an IP
// packet of mtu bytes, and mends the checksum (a partial one does not cover the
// option yet). Options of IP and TCP do not count (RFC 6691). It reports
// whether it changed anything; a packet that is no SYN, has no such option or
// malformed ones stays as it is.
func (b *Batch) ClampMSS(p *Packet, mtu int) bool {
	if p.Tuple.Proto != ProtoTCP || p.TCPFlags&TCPSyn == 0 || (p.Class != Flow && p.Class != Fragment) {
		return false
	}
	if p.Class == Fragment && !b.FirstFragment(p) {
		return false
	}
	f := b.Frame(p)
	limit := mtu - 60
	if is4(f) {
		limit = mtu - 40
	}
	l := f[p.L4:]
	l = l[:int(l[12]>>4)*4]
	at := mssOption(l)
	if at == 0 || limit <= 0 {
		return false
	}
	old := int(binary.BigEndian.Uint16(l[at:]))
	if old <= limit {
		return false
	}
	binary.BigEndian.PutUint16(l[at:], uint16(limit))
	if p.Flags&NeedsCsum != 0 && p.CsumStart == p.L4 {
		return true
	}
	d := deltaOf(le16(old), le16(limit))
	if at&1 != 0 {
		d = bits.ReverseBytes16(d) // the value straddles two words
	}
	patch(l[tcpCsum:], uint32(d))
	return true
}

// mssOption returns the offset of the MSS value in the TCP header l, or 0.
func mssOption(l []byte) int {
	for i := 20; i < len(l); {
		switch l[i] {
		case 0: // end of options
			return 0
		case 1: // no operation
			i++
			continue
		}
		if i+1 >= len(l) || l[i+1] < 2 || i+int(l[i+1]) > len(l) {
			return 0
		}
		if l[i] == 2 && l[i+1] == 4 {
			return i + 2
		}
		i += int(l[i+1])
	}
	return 0
}
