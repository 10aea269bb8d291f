package vswitch

import (
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
