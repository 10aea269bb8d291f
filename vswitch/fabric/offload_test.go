package fabric

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket/layers"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/packet"
)

// pattern returns n bytes that tell where they are.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i)*3
	}
	return b
}

// super makes the frame of s a superpacket: with a partial checksum, as TAPs
// deliver it, to be cut into segments of size bytes.
func (s seg) super(frame []byte, size int) (f []byte, offload func(*packet.Packet)) {
	f = bytes.Clone(frame)
	l4, hdr, proto, at := 34, 20, uint8(packet.ProtoTCP), 16
	gso := packet.GSOTCPv4
	if s.src.Addr().Is6() {
		l4, gso = 54, packet.GSOTCPv6
	}
	if s.udp {
		hdr, proto, at, gso = 8, packet.ProtoUDP, 6, packet.GSOUDPL4
	}
	src, dst := packet.AddrFrom(s.src.Addr()), packet.AddrFrom(s.dst.Addr())
	binary.BigEndian.PutUint16(f[l4+at:], packet.Fold(packet.PseudoSum(&src, &dst, proto, len(f)-l4)))
	return f, func(p *packet.Packet) {
		p.Flags, p.CsumStart, p.CsumOffset = packet.NeedsCsum, uint16(l4), uint16(at)
		if size != 0 {
			p.GSO, p.GSOSize, p.HdrLen = gso, uint16(size), uint16(l4+hdr)
		}
	}
}

// TestOffloadThroughService: superpackets and partial checksums go through all
// kinds of translation whole, and every segment is right in the end.
func TestOffloadThroughService(t *testing.T) {
	for _, c := range []struct{ name, from, dst, backend string }{
		{"same node", "a", "vip", "b"}, {"across nodes", "a", "vip", "c"}, {"hairpin", "a", "vip", "a"},
		{"masqueraded", "a", "lb", "c"}, {"from outside", "client", "lb", "c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{}, func(w *world) {
				w.serve(c.backend)
				bothProtocols(w, func(udp bool) {
					client, front := w.at(c.from, 1000), w.at(c.dst, 80)
					_, seen, _ := w.talk(c.from, client, front, udp, c.backend)
					for _, size := range []int{1000, 0} {
						n := 20500
						if size == 0 {
							n = 900
						}
						for _, way := range []struct {
							who, to string
							seg
						}{
							{c.from, c.backend, seg{src: client, dst: front}},
							{c.backend, c.from, seg{src: w.at(c.backend, 8080), dst: seen}},
						} {
							s := way.seg
							s.udp, s.flags, s.payload = udp, "A", pattern(n)
							to, src := w.macs(way.who, s.dst.Addr())
							frame, offload := s.super(s.frame(w.T, to, src), size)
							w.raw(way.who, frame, offload)
							out := w.all()
							var got []byte
							for _, a := range out[way.to] {
								got = append(got, a.payload...)
								if size != 0 && a.desc.GSO == packet.GSONone {
									w.Error("a superpacket was cut on its way")
								}
							}
							if len(out) != 1 || !bytes.Equal(got, s.payload) {
								w.Errorf("%s to %s, segments of %d: %d bytes of %d arrived: %s; drops %s", way.who, way.to, size, len(got), n, describeArrivals(out), w.drops())
							}
						}
					}
				})
			})
		})
	}
}

// fragments cuts a frame into fragments of size bytes of payload.
func fragments(frame []byte, id uint16, size int) (out [][]byte) {
	hdr, v6 := 34, frame[12] == 0x86
	if v6 {
		hdr = 54
	}
	body := frame[hdr:]
	for off := 0; off < len(body); off += size {
		part, more := body[off:], uint16(0)
		if len(part) > size {
			part, more = part[:size], 1
		}
		f := bytes.Clone(frame[:hdr])
		if v6 {
			next := f[14+6]
			f[14+6] = 44
			f = append(f, next, 0)
			f = binary.BigEndian.AppendUint16(f, uint16(off)|more)
			f = binary.BigEndian.AppendUint32(f, uint32(id))
			binary.BigEndian.PutUint16(f[14+4:], uint16(8+len(part)))
		} else {
			h := f[14:]
			binary.BigEndian.PutUint16(h[2:], uint16(20+len(part)))
			binary.BigEndian.PutUint16(h[4:], id)
			binary.BigEndian.PutUint16(h[6:], uint16(off/8)|more<<13)
			binary.BigEndian.PutUint16(h[10:], 0)
			binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h, 0)))
		}
		out = append(out, append(f, part...))
	}
	return out
}

// reassemble makes the datagram that the arrivals are fragments of, and checks
// its checksum by making it anew.
func (w *world) reassemble(at string, list []arrival) arrival {
	w.Helper()
	var body []byte
	var whole []byte
	end := 0
	for _, a := range list {
		var off int
		var part []byte
		if h, ok := a.packet.NetworkLayer().(*layers.IPv4); ok {
			off, part = int(h.FragOffset)*8, h.Payload
			if h.Flags&layers.IPv4MoreFragments == 0 {
				end = off + len(part)
			}
			if off == 0 {
				whole = bytes.Clone(a.frame[:34])
			}
			if len(a.frame)-14 > 1450 && w.pods[at] != nil {
				w.Errorf("a fragment of %d bytes", len(a.frame)-14)
			}
		} else {
			f := a.packet.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
			off, part = int(f.FragmentOffset)*8, f.Payload
			if !f.MoreFragments {
				end = off + len(part)
			}
			if off == 0 {
				whole = bytes.Clone(a.frame[:54])
				whole[14+6] = byte(f.NextHeader)
			}
		}
		if len(body) < off+len(part) {
			body = append(body, make([]byte, off+len(part)-len(body))...)
		}
		copy(body[off:], part)
	}
	if whole == nil || len(body) != end {
		w.Fatalf("%s got %d fragments, %d bytes of %d; drops %s", at, len(list), len(body), end, w.drops())
	}
	h := whole[14:]
	if h[0]>>4 == 4 {
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		clear(h[6:8])
		clear(h[10:12])
		binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h, 0)))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	}
	return w.read(at, append(whole, body...), packet.Packet{})
}

// TestB20Fragments: large datagrams go through a service and back as fragments,
// in any order.
func TestB20Fragments(t *testing.T) {
	for _, c := range []struct{ name, from, dst, backend string }{
		{"same node", "a", "vip", "b"}, {"across nodes", "a", "vip", "c"}, {"hairpin", "a", "vip", "a"},
		{"node port", "a", "n2", "c"}, {"masqueraded", "a", "lb", "c"}, {"from outside", "client", "lb", "c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{}, func(w *world) {
				w.serve(c.backend)
				for i, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 0, 3, 2}} {
					front := w.at(c.dst, 80)
					if c.dst[0] == 'n' {
						front = w.at(c.dst, 30080)
					}
					ask := seg{src: w.at(c.from, 1000), dst: front, udp: true, payload: pattern(4000)}
					pass := func(who, at string, s seg, id uint16) arrival {
						to, src := w.macs(who, s.dst.Addr())
						parts := fragments(s.frame(w.T, to, src), id, 1200)
						for _, k := range order {
							w.raw(who, parts[k], nil)
						}
						return w.reassemble(at, w.all()[at])
					}
					got := pass(c.from, c.backend, ask, uint16(100+i))
					if got.dst != w.at(c.backend, 8080) || !bytes.Equal(got.payload, ask.payload) {
						w.Errorf("order %v: the backend got %v -> %v, %d bytes", order, got.src, got.dst, len(got.payload))
					}
					answer := got.reverse("")
					answer.payload = pattern(3900)
					back := pass(c.backend, c.from, answer, uint16(200+i))
					if back.src != front || back.dst != ask.src || !bytes.Equal(back.payload, answer.payload) {
						w.Errorf("order %v: the client got %v -> %v, %d bytes", order, back.src, back.dst, len(back.payload))
					}
				}
			})
		})
	}
}

// TestB20Oversize: IPv4 packets and fragments of a client outside that are too big
// for the overlay are cut on their way, after translation, in whatever order they come.
func TestB20Oversize(t *testing.T) {
	for mode, cfg := range map[string]agent.ServiceConfig{"preserve": {}, "masquerade": {ExternalClient: agent.MasqueradeClient}} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, cfg, false)
			w.serve("c")
			s := seg{src: w.at("client", 1000), dst: w.at("lb", 80), udp: true, payload: pattern(1460)}
			for range 2 { // the first packet, and one of a known flow
				w.send("client", s)
				if got := w.reassemble("c", w.all()["c"]); !bytes.Equal(got.payload, s.payload) || got.dst != w.at("c", 8080) {
					t.Errorf("got %v, %d bytes", got.dst, len(got.payload))
				}
			}
			s.payload = pattern(4400)
			for i, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
				to, src := w.macs("client", s.dst.Addr())
				parts := fragments(s.frame(t, to, src), uint16(50+i), 1480)
				for _, k := range order {
					w.raw("client", parts[k], nil)
				}
				if got := w.reassemble("c", w.all()["c"]); !bytes.Equal(got.payload, s.payload) || got.dst != w.at("c", 8080) {
					t.Errorf("order %v: got %v, %d bytes", order, got.dst, len(got.payload))
				}
			}
		})
	}
}
