package vswitch

import (
	"encoding/binary"
	"hash/crc32"

	"vswitch/vswitch/packet"
)

// What refuses a packet of SCTP that is of no association is a packet with one
// chunk of four bytes, which needs no more of the association than the packet had.
const (
	sctpHeaderLen = 12
	sctpChunkLen  = 4
	// sctpReflected (T) says that the verification tag is the receiver's own.
	sctpReflected = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// abort refuses the SCTP packet p, which is of no association that is known. Its
// sender believes that, as it gets its own tag back.
func (w *worker) abort(p *packet.Packet) {
	chunk := refusal(p.Chunk)
	if p.Class != packet.Flow || chunk == 0 || !w.errors.take(w.now) {
		return
	}
	in := w.in.Frame(p)[p.L4:]
	var l [sctpHeaderLen + sctpChunkLen]byte
	binary.BigEndian.PutUint16(l[0:], p.Tuple.DstPort)
	binary.BigEndian.PutUint16(l[2:], p.Tuple.SrcPort)
	copy(l[4:8], in[4:8])
	l[12], l[13], l[15] = chunk, sctpReflected, sctpChunkLen
	binary.LittleEndian.PutUint32(l[8:], crc32.Checksum(l[:], castagnoli))
	d := packet.Datagram{Src: p.Tuple.Dst, Dst: p.Tuple.Src, Proto: packet.ProtoSCTP, Payload: l[:]}
	buf := w.room()
	n, _ := d.Next(buf, ipv6MinMTU)
	w.send(p, buf[:n])
}

// ipv6MinMTU is the MTU of every link that has IPv6 (RFC 8200 section 5).
const ipv6MinMTU = 1280

// refusal is the chunk that answers a packet of no association, by its first
// chunk; 0 for those that are not answered (RFC 9260 section 8.4). An INIT is of
// none yet, and not refused so.
func refusal(chunk uint8) uint8 {
	switch chunk {
	case packet.ChunkInit, packet.ChunkAbort, packet.ChunkShutdownComplete, packet.ChunkCookieAck:
		return 0
	case packet.ChunkShutdownAck:
		return packet.ChunkShutdownComplete
	}
	return packet.ChunkAbort
}
