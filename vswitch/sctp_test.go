package vswitch

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"vswitch/nat"
	"vswitch/vswitch/packet"
)

// TestAssociation: the chunks of SCTP lead a connection through its life, also
// once its flows are known, and what is no such chunk does not.
func TestAssociation(t *testing.T) {
	const data, sack = 0, 3
	r := newRig(t)
	chunk := func(from string, types ...uint8) {
		t.Helper()
		l := &layers.SCTP{SrcPort: 1000, DstPort: 80, VerificationTag: 7}
		var rest []byte
		for _, typ := range types {
			rest = append(rest, typ, 0, 0, 8, 0, 0, 0, 0)
		}
		if from == "a" {
			r.send("a", buildBody(t, macB, macA, podA, podB, l, rest))
			r.only("b")
			return
		}
		l.SrcPort, l.DstPort = l.DstPort, l.SrcPort
		r.send("b", buildBody(t, macA, macB, podB, podA, l, rest))
		r.only("a")
	}
	var id nat.ID
	is := func(want nat.State) {
		t.Helper()
		n := 0
		r.sw.Conns().All(func(i nat.Info) bool {
			if n++; i.State != want {
				t.Errorf("%v, want %v", i.State, want)
			}
			id = i.ID
			return true
		})
		if n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	}
	for _, end := range []struct {
		name   string
		chunks func()
		state  nat.State
	}{
		{"abort", func() { chunk("b", packet.ChunkAbort) }, nat.Closed},
		{"shutdown", func() {
			chunk("a", packet.ChunkShutdown)
			is(nat.FinWait)
			chunk("b", packet.ChunkShutdownAck)
			chunk("a", packet.ChunkShutdownComplete)
		}, nat.TimeWait},
	} {
		t.Run(end.name, func(t *testing.T) {
			before := id
			chunk("a", packet.ChunkInit)
			is(nat.SynSent)
			if id == before {
				t.Error("an INIT after the end begins nothing")
			}
			chunk("b", packet.ChunkInitAck)
			chunk("a", packet.ChunkCookieEcho, data)
			is(nat.SynRecv)
			chunk("b", packet.ChunkCookieAck, sack)
			is(nat.Established)
			for range 3 {
				chunk("a", data)
				chunk("b", sack, data)
				r.now += time.Second
			}
			is(nat.Established)
			chunk("a", 200) // nobody knows what that is
			is(nat.Established)
			end.chunks()
			is(end.state)
		})
	}
}

// chunks is the SCTP packet from port 1000 to port 80 with chunks of twenty bytes.
func chunks(types ...uint8) (*layers.SCTP, []byte) {
	l := &layers.SCTP{SrcPort: 1000, DstPort: 80, VerificationTag: 0x01020304}
	var rest []byte
	for _, typ := range types {
		rest = append(append(rest, typ, 0, 0, 20), make([]byte, 16)...)
	}
	return l, rest
}

// refusedWith fails unless the only packet at "a" is the answer to one of chunks:
// a chunk without a body that reflects its tag, from the address it went to.
func (r *rig) refusedWith(dst string, chunk uint8) {
	r.t.Helper()
	frame := r.only("a").frame
	p := decode(r.t, frame)
	l, ok := p.TransportLayer().(*layers.SCTP)
	if !ok {
		r.t.Fatalf("%s answers", describe(frame))
	}
	raw := append(bytes.Clone(l.Contents), l.Payload...)
	if want := []byte{chunk, 1, 0, 4}; !bytes.Equal(raw[12:], want) || l.VerificationTag != 0x01020304 || l.SrcPort != 80 || l.DstPort != 1000 {
		r.t.Errorf("%x answers, want %x behind the header", raw, want)
	}
	sum := binary.LittleEndian.Uint32(raw[8:])
	clear(raw[8:12])
	if want := crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)); sum != want {
		r.t.Errorf("CRC %08x, want %08x", sum, want)
	}
	if src := p.NetworkLayer().NetworkFlow().Src().String(); src != dst || [6]byte(frame) != macA {
		r.t.Errorf("the answer is from %s to %x", src, frame[:6])
	}
}

// TestSCTPWithoutAssociation: what begins no association with a service is refused
// as RFC 9260 section 8.4 says, by the switch, and leaves nothing behind. So is
// what comes to a switch that has lost its connections.
func TestSCTPWithoutAssociation(t *testing.T) {
	const data, heartbeat, anError = 0, 4, 9
	for _, f := range [][3]string{{podA, vip, podB}, {podA6, vip6, podB6}} {
		src, dst := f[0], f[1]
		for name, c := range map[string]struct {
			chunks []uint8
			answer uint8 // 0: none
		}{
			"data":              {[]uint8{data}, packet.ChunkAbort},
			"heartbeat":         {[]uint8{heartbeat}, packet.ChunkAbort},
			"an error":          {[]uint8{anError}, packet.ChunkAbort},
			"cookie echo":       {[]uint8{packet.ChunkCookieEcho, data}, packet.ChunkAbort},
			"init ack":          {[]uint8{packet.ChunkInitAck}, packet.ChunkAbort},
			"shutdown":          {[]uint8{packet.ChunkShutdown}, packet.ChunkAbort},
			"nothing":           {nil, packet.ChunkAbort},
			"shutdown ack":      {[]uint8{packet.ChunkShutdownAck}, packet.ChunkShutdownComplete},
			"abort":             {[]uint8{packet.ChunkAbort}, 0},
			"shutdown complete": {[]uint8{packet.ChunkShutdownComplete}, 0},
			"cookie ack":        {[]uint8{packet.ChunkCookieAck}, 0},
		} {
			t.Run(name+" to "+dst, func(t *testing.T) {
				r := newRig(t)
				r.serve(0, podB, podB6)
				l, body := chunks(c.chunks...)
				r.send("a", buildBody(t, macGW, macA, src, dst, l, body))
				if c.answer == 0 {
					r.none("a", NoConnection)
				} else {
					r.refusedWith(dst, c.answer)
					r.dropped("a", NoConnection)
				}
				if n := r.sw.Conns().Len(); n != 0 {
					t.Errorf("%d connections are left", n)
				}
				l, body = chunks(packet.ChunkInit)
				r.send("a", buildBody(t, macGW, macA, src, dst, l, body))
				r.only("b")
			})
		}
		t.Run("lost to "+dst, func(t *testing.T) {
			for boot := range 2 {
				r := newRig(t)
				r.serve(0, podB, podB6)
				if boot == 0 {
					l, body := chunks(packet.ChunkInit)
					r.send("a", buildBody(t, macGW, macA, src, dst, l, body))
					r.only("b")
				}
				l, body := chunks(data)
				r.send("a", buildBody(t, macGW, macA, src, dst, l, body))
				if boot == 0 {
					r.only("b")
				} else {
					r.refusedWith(dst, packet.ChunkAbort)
				}
			}
		})
	}
}

// TestSCTPEndpointGone: an association with an endpoint that is gone is aborted, and
// the client may begin again.
func TestSCTPEndpointGone(t *testing.T) {
	r := newRig(t)
	r.serve(0, "10.244.1.9")
	r.tables.Routes = r.tables.Routes.Insert(prefix("10.244.1.9/32"), r.tables.Routes.Get(prefix(podB+"/32")))
	r.publish()
	send := func(chunk uint8) {
		t.Helper()
		l, body := chunks(chunk)
		r.send("a", buildBody(t, macGW, macA, podA, vip, l, body))
	}
	send(packet.ChunkInit)
	r.only("b")
	send(packet.ChunkCookieEcho)
	r.only("b")
	r.tables.Routes = r.tables.Routes.Delete(prefix("10.244.1.9/32"))
	r.serve(0, podB)
	send(0)
	r.refusedWith(vip, packet.ChunkAbort)
	r.dropped("a", EndpointGone)
	send(packet.ChunkInit)
	r.only("b")
}
