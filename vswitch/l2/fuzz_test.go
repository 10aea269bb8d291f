package l2

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/packet"
)

// FuzzARP compares with gopacket what is accepted, and reads back the answer.
func FuzzARP(f *testing.F) {
	f.Add(arpFrame(f, 1, alice, "10.0.0.1", [6]byte{}, "10.0.0.2"))
	f.Add(arpFrame(f, 2, alice, "10.0.0.1", bob, "10.0.0.2"))
	f.Add(arpFrame(f, 1, alice, "0.0.0.0", [6]byte{}, "10.0.0.2"))
	f.Add(arpFrame(f, 1, alice, "10.0.0.2", [6]byte{}, "10.0.0.2")[:41])
	f.Fuzz(func(t *testing.T, frame []byte) {
		a, ok := ParseARP(frame)
		if !ok {
			if a != (ARP{}) {
				t.Errorf("refused, but %+v", a)
			}
			return
		}
		_, want := decodeARP(t, frame)
		if want.Operation != a.Op || !bytes.Equal(want.SourceHwAddress, a.SenderMAC[:]) || !bytes.Equal(want.DstHwAddress, a.TargetMAC[:]) ||
			!bytes.Equal(want.SourceProtAddress, a.SenderIP[12:]) || !bytes.Equal(want.DstProtAddress, a.TargetIP[12:]) {
			t.Errorf("%+v, want %+v", a, want)
		}
		if !a.Request() {
			return
		}
		r, ok := ParseARP(a.Reply(make([]byte, ARPLen), bob))
		if !ok || r.Request() || r.SenderIP != a.TargetIP || r.TargetIP != a.SenderIP || r.SenderMAC != bob || r.TargetMAC != a.SenderMAC {
			t.Errorf("reply %+v %v to %+v", r, ok, a)
		}
	})
}

// FuzzND compares with gopacket and an independent checksum what is accepted,
// and reads back the answer.
func FuzzND(f *testing.F) {
	source := macOption(layers.ICMPv6OptSourceAddress, alice)
	for _, frame := range [][]byte{
		ns(f, alice6, solicitedBob, bob6, source), ns(f, "::", solicitedBob, bob6), na(f, alice6, "ff02::1", alice6, 0x20, source),
		rs(f, "fe80::a", source), ra(f, "fe80::a", source, prefixOption), ns(f, alice6, bob6, bob6)[:70],
		resum(extend(ns(f, alice6, bob6, bob6), 1, 0, 0, 0, 0, 0, 0, 0)),
	} {
		f.Add(frame, true)
	}
	f.Fuzz(func(t *testing.T, frame []byte, repair bool) {
		if repair && len(frame) >= 58 && int(binary.BigEndian.Uint16(frame[18:])) >= 4 {
			frame = resum(bytes.Clone(frame))
		}
		ns, isNS := ParseNS(frame)
		na, isNA := ParseNA(frame)
		rs, isRS := ParseRS(frame)
		ra, isRA := ParseRA(frame)
		var h *Header
		switch {
		case isNS && !isNA && !isRS && !isRA:
			h = &ns.Header
		case isNA && !isNS && !isRS && !isRA:
			h = &na.Header
		case isRS && !isNS && !isNA && !isRA:
			h = &rs.Header
		case isRA && !isNS && !isNA && !isRS:
			h = &ra.Header
		case isNS || isNA || isRS || isRA:
			t.Fatal("two messages in one")
		default:
			return
		}
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		if ip.HopLimit != 255 || !bytes.Equal(ip.SrcIP, h.Source[:]) || !bytes.Equal(ip.DstIP, h.Destination[:]) ||
			oracleSum(frame[14:], int(ip.Length)) != 0xffff {
			t.Errorf("%+v in %x", h, frame)
		}
		if isNS {
			fuzzNS(t, &ns, p)
		}
		if isNA {
			l := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			if !bytes.Equal(l.TargetAddress, na.Target[:]) || l.Router() != na.Router || l.Solicited() != na.Solicited || l.Override() != na.Override {
				t.Errorf("%+v, want %+v", na, l)
			}
		}
		if isRA {
			l := p.Layer(layers.LayerTypeICMPv6RouterAdvertisement).(*layers.ICMPv6RouterAdvertisement)
			if l.RouterLifetime != ra.Lifetime || l.RetransTimer != ra.Retransmit || l.ReachableTime != ra.Reachable || l.HopLimit != ra.HopLimit {
				t.Errorf("%+v, want %+v", ra, l)
			}
		}
		for range h.Options.Prefixes() {
		}
		h.Options.MTU()
	})
}

func fuzzNS(t *testing.T, n *NS, p gopacket.Packet) {
	l := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
	if !bytes.Equal(l.TargetAddress, n.Target[:]) {
		t.Errorf("%+v, want %+v", n, l)
	}
	answer := n.Advertise(make([]byte, AdvertisementLen), bob, true)
	if n.Target == (packet.Addr{}) {
		return // nobody has this address
	}
	if a, ok := ParseNA(answer); !ok || a.Target != n.Target || a.Solicited == n.Probe() || oracleSum(answer[14:], len(answer)-54) != 0xffff {
		t.Errorf("answer %+v %v to %+v", a, ok, n)
	}
}
