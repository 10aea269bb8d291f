package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/fib"
	"vswitch/vswitch/packet"
)

// echoes builds an echo request of a pod to its gateway, and the ICMP message of
// the reply to it.
func echoes(t *testing.T, mac [6]byte, from, to string, size int) (request, reply []byte) {
	t.Helper()
	msg := func(reply bool) gopacket.SerializableLayer {
		if net.ParseIP(from).To4() != nil {
			typ := uint8(layers.ICMPv4TypeEchoRequest)
			if reply {
				typ = layers.ICMPv4TypeEchoReply
			}
			return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 77, Seq: 3}
		}
		typ := uint8(layers.ICMPv6TypeEchoRequest)
		if reply {
			typ = layers.ICMPv6TypeEchoReply
		}
		return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	}
	gw := macGW
	if mac == macPeer {
		gw = macVTEP
	}
	l3 := 34
	if net.ParseIP(from).To4() == nil {
		l3 = 54
	}
	return build(t, gw, mac, from, to, msg(false), size), build(t, mac, gw, to, from, msg(true), size)[l3:]
}

// reassemble puts fragments together, which gopacket has read and which come in
// order, and returns the ICMP message; it fails if they do not fit mtu or each
// other.
func reassemble(t *testing.T, frames []received, mac [6]byte, from, to string, id uint32, mtu int) []byte {
	t.Helper()
	var whole []byte
	for i, f := range frames {
		p := decode(t, f.frame)
		last := i == len(frames)-1
		if len(f.frame)-14 > mtu || [6]byte(f.frame) != mac {
			t.Fatalf("fragment %d has %d bytes and is for %x", i, len(f.frame)-14, f.frame[:6])
		}
		if h, ok := p.NetworkLayer().(*layers.IPv4); ok {
			if h.SrcIP.String() != from || h.DstIP.String() != to || h.TTL != 64 || uint32(h.Id) != id || h.Protocol != layers.IPProtocolICMPv4 ||
				packet.Fold(packet.Sum(f.frame[14:34], 0)) != 0xffff {
				t.Fatalf("fragment %d: %v", i, p)
			}
			if int(h.FragOffset)*8 != len(whole) || (h.Flags&layers.IPv4MoreFragments == 0) != last {
				t.Fatalf("fragment %d of %d is at %d, want %d; flags %v", i, len(frames), int(h.FragOffset)*8, len(whole), h.Flags)
			}
			whole = append(whole, h.Payload...)
			continue
		}
		h := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		g := p.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
		if h.SrcIP.String() != from || h.DstIP.String() != to || h.HopLimit != 64 || g.Identification != id || g.NextHeader != layers.IPProtocolICMPv6 {
			t.Fatalf("fragment %d: %v", i, p)
		}
		if int(g.FragmentOffset)*8 != len(whole) || g.MoreFragments == last {
			t.Fatalf("fragment %d of %d is at %d, want %d; more: %v", i, len(frames), int(g.FragmentOffset)*8, len(whole), g.MoreFragments)
		}
		whole = append(whole, g.Payload...)
	}
	return whole
}

// echoFamilies runs f for both families, with a pod and its gateway.
func echoFamilies(t *testing.T, f func(t *testing.T, pod, gw string)) {
	families(t, func(t *testing.T, a, _, _, gw string) { f(t, a, gw) })
}

// TestFragmentedEcho: the switch answers an echo request of any size, in
// whatever order its fragments come.
func TestFragmentedEcho(t *testing.T) {
	echoFamilies(t, func(t *testing.T, pod, gw string) {
		for name, order := range map[string]func([][]byte) [][]byte{
			"in order":    func(f [][]byte) [][]byte { return f },
			"reversed":    func(f [][]byte) [][]byte { slices.Reverse(f); return f },
			"first later": func(f [][]byte) [][]byte { f[0], f[len(f)/2] = f[len(f)/2], f[0]; return f },
			"shuffled": func(f [][]byte) [][]byte {
				rand.New(rand.NewPCG(1, 2)).Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
				return f
			},
		} {
			for _, size := range []int{1500, 20000, 65507} {
				for _, cut := range []int{1200, 536} {
					t.Run(fmt.Sprintf("%s/%d/%d", name, size, cut), func(t *testing.T) {
						r := newRig(t)
						if size == 65507 && net.ParseIP(pod).To4() == nil {
							size = 65527 // the largest that IP has
						}
						request, want := echoes(t, macA, pod, gw, payloadOf(pod, size))
						for _, f := range order(fragmentsOf(t, request, 99, cut)) {
							r.send("a", f)
						}
						if got := reassemble(t, r.got("a"), macA, gw, pod, 99, 1450); !bytes.Equal(got, want) {
							t.Errorf("the reply has %d bytes, want %d; drops %v", len(got), len(want), r.sw.Drops())
						}
						if d := r.sw.Drops(); len(d) != 0 {
							t.Errorf("drops are %v", d)
						}
						free(t, r)
					})
				}
			}
		}
	})
}

// payloadOf returns how many bytes to give to build for an ICMP message with
// size bytes of data: the layer of ICMPv6 has only four of the eight in front.
func payloadOf(pod string, size int) int {
	if net.ParseIP(pod).To4() == nil {
		return size + 4
	}
	return size
}

// free fails if anything is kept of any datagram.
func free(t *testing.T, r *rig) {
	t.Helper()
	fs := r.sw.workers[0].frags
	used := slices.ContainsFunc(fs.wholes, func(h *whole) bool { return h.of != nil })
	if len(fs.m) != 0 || fs.waiting != 0 || used || len(fs.wholes) > maxWholes {
		t.Errorf("%d datagrams, %d bytes and %d places (in use: %v) are kept", len(fs.m), fs.waiting, len(fs.wholes), used)
	}
}

// patched returns a fragment with another offset and M flag.
func patched(frame []byte, offset int, more bool) []byte {
	f := bytes.Clone(frame)
	m := uint16(0)
	if f[12] == 0x86 {
		if more {
			m = 1
		}
		binary.BigEndian.PutUint16(f[56:], uint16(offset)|m)
		return f
	}
	if more {
		m = 0x2000
	}
	binary.BigEndian.PutUint16(f[20:], uint16(offset/8)|m)
	binary.BigEndian.PutUint16(f[24:], 0)
	binary.BigEndian.PutUint16(f[24:], ^packet.Fold(packet.Sum(f[14:34], 0)))
	return f
}

// TestFragmentedEchoDrops: what must not be put together is not, every fragment
// of it is counted once, and nothing is kept.
func TestFragmentedEchoDrops(t *testing.T) {
	type count = map[Reason]uint64
	echoFamilies(t, func(t *testing.T, pod, gw string) {
		request, reply := echoes(t, macA, pod, gw, 4001)
		other := bytes.Clone(request)
		for i := 100; i < len(other); i++ {
			other[i] ^= 0x55
		}
		f, g := fragmentsOf(t, request, 9, 1200), fragmentsOf(t, other, 9, 1200) // 4 of each
		last := f[3]
		for name, c := range map[string]struct {
			frames [][]byte
			answer bool
			drops  count
		}{
			"gap":               {[][]byte{f[0], f[1], f[3]}, false, count{FragmentLost: 3}},
			"no last":           {[][]byte{f[0], f[1], f[2]}, false, count{FragmentLost: 3}},
			"no first":          {[][]byte{f[1], f[2], f[3]}, false, count{FragmentLost: 3}},
			"twice the same":    {[][]byte{f[0], f[1], f[1], f[2], f[0], f[3]}, true, count{FragmentLost: 2}},
			"twice, early":      {[][]byte{f[2], f[0], f[2], f[3], f[1]}, true, count{FragmentLost: 1}},
			"twice before":      {[][]byte{f[1], f[1], f[0], f[2], f[3]}, true, count{FragmentLost: 1}},
			"other bytes":       {[][]byte{f[0], f[1], g[1], f[2], f[3]}, false, count{Malformed: 1, FragmentLost: 4}},
			"other bytes early": {[][]byte{f[1], g[1], f[0], f[2], f[3]}, false, count{FragmentLost: 5}},
			"other first":       {[][]byte{f[0], f[1], g[0], f[2], f[3]}, false, count{Malformed: 1, FragmentLost: 4}},
			"overlap in part":   {[][]byte{f[0], patched(f[1], 1192, true), f[2], f[3]}, false, count{Malformed: 1, FragmentLost: 3}},
			"overlap of two":    {[][]byte{f[0], f[1], f[2], patched(f[1], 1800, true), f[3]}, false, count{Malformed: 1, FragmentLost: 4}},
			"two ends":          {[][]byte{f[0], last, patched(last, 2400, false), f[1], f[2]}, false, count{Malformed: 1, FragmentLost: 4}},
			"behind the end":    {[][]byte{f[0], last, patched(f[1], 4800, true), f[1], f[2]}, false, count{Malformed: 1, FragmentLost: 4}},
			"end before":        {[][]byte{f[0], f[2], patched(last, 1200, false), f[1]}, false, count{Malformed: 1, FragmentLost: 3}},
			"end is no end":     {[][]byte{f[0], f[1], f[2], patched(f[2], 2400, false)}, false, count{Malformed: 1, FragmentLost: 3}},
			"too long":          {[][]byte{f[0], patched(f[1], 65528, false)}, false, count{Malformed: 1, FragmentLost: 1}},
			"not by eight":      {[][]byte{f[0], patched(last, 1200, true)}, false, count{Malformed: 1, FragmentLost: 1}},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				for _, f := range c.frames {
					r.send("a", f)
				}
				out := r.got("a")
				if (len(out) > 0) != c.answer || c.answer && !bytes.Equal(reassemble(t, out, macA, gw, pod, 9, 1450), reply) {
					t.Errorf("%d packets came out", len(out))
				}
				r.now += (fragTimeout + 2) * time.Second
				r.sw.Step()
				if d := r.sw.Counters(r.ids["a"]).Drops; fmt.Sprint(d) != fmt.Sprint(c.drops) {
					t.Errorf("drops are %v, want %v", d, c.drops)
				}
				free(t, r)
			})
		}
	})
}

// TestFragmentedToSwitch: other protocols, and a reply, are not put together.
func TestFragmentedToSwitch(t *testing.T) {
	echoFamilies(t, func(t *testing.T, pod, gw string) {
		r := newRig(t)
		for _, f := range fragmentsOf(t, build(t, macGW, macA, pod, gw, udp(), 3000), 1, 1200) {
			r.send("a", f)
		}
		_, reply := echoes(t, macA, pod, gw, 3000)
		request, _ := echoes(t, macA, pod, gw, 3000)
		answer := append(request[:len(request)-len(reply)], reply...)
		for _, f := range fragmentsOf(t, answer, 2, 1200) {
			r.send("a", f)
		}
		if n := len(r.got("a")); n != 0 {
			t.Errorf("%d packets came out", n)
		}
		if d := r.sw.Drops(); d[NoListener] != 2 || d[FragmentLost] != 4 {
			t.Errorf("drops are %v, want 2 and 4", d)
		}
		if n := len(r.sw.workers[0].frags.wholes); n != 0 {
			t.Errorf("memory for %d datagrams was made", n)
		}
	})
}

// TestManyFragmentedEchoes: of many that are never whole, the last few are kept,
// and one that is whole is answered all the same.
func TestManyFragmentedEchoes(t *testing.T) {
	echoFamilies(t, func(t *testing.T, pod, gw string) {
		r := newRig(t)
		fs := r.sw.workers[0].frags
		request, reply := echoes(t, macA, pod, gw, 4000)
		const many = 300
		for id := range uint16(many) {
			r.send("a", fragmentsOf(t, request, id, 1200)[0])
			r.now += time.Millisecond
			if len(fs.wholes) > maxWholes || len(fs.m) > maxWholes {
				t.Fatalf("%d datagrams and places for %d", len(fs.m), len(fs.wholes))
			}
		}
		if d := r.sw.Drops(); d[FragmentLost] != many-maxWholes {
			t.Errorf("drops are %v, want %d lost", d, many-maxWholes)
		}
		for _, f := range fragmentsOf(t, request, 1000, 1200) {
			r.send("a", f)
		}
		if got := reassemble(t, r.got("a"), macA, gw, pod, 1000, 1450); !bytes.Equal(got, reply) {
			t.Errorf("the reply has %d bytes, want %d", len(got), len(reply))
		}
		// Those that are being put together at a time do not mix.
		for i := range 4 {
			for id := range uint16(maxWholes) {
				r.send("a", fragmentsOf(t, request, 2000+id, 1200)[i])
			}
		}
		out := r.got("a")
		for id := range uint32(maxWholes) {
			n := len(out) / maxWholes
			if got := reassemble(t, out[int(id)*n:][:n], macA, gw, pod, 2000+id, 1450); !bytes.Equal(got, reply) {
				t.Errorf("reply %d has %d bytes, want %d", id, len(got), len(reply))
			}
		}
		r.now += (fragTimeout + 2) * time.Second
		r.sw.Step()
		free(t, r)
	})
}

// TestFragmentedEchoOfPeer: a pod of another node gets fragments that fit the
// overlay, and a pod with a large MTU large ones.
func TestFragmentedEchoOfPeer(t *testing.T) {
	families(t, func(t *testing.T, a, _, far, gw string) {
		r := newRig(t)
		request, reply := echoes(t, macPeer, far, gw, 9000)
		for _, f := range fragmentsOf(t, request, 5, 1400) {
			r.send("overlay", f)
		}
		out := r.got("overlay")
		if got := reassemble(t, out, macPeer, gw, far, 5, 1450); !bytes.Equal(got, reply) {
			t.Errorf("the reply has %d bytes, want %d; drops %v", len(got), len(reply), r.sw.Drops())
		}
		for _, f := range out {
			if f.Peer != testPeer {
				t.Errorf("a fragment goes to peer %d", f.Peer)
			}
		}
		ip := addr(a)
		hop := *r.tables.Routes.Lookup(&ip)
		hop.MTU = 9000
		r.tables.Routes = r.tables.Routes.Insert(mustPrefix(a), &hop)
		r.publish()
		request, reply = echoes(t, macA, a, gw, 20000)
		for _, f := range fragmentsOf(t, request, 6, 1400) {
			r.send("a", f)
		}
		if out = r.got("a"); len(out) != 3 {
			t.Errorf("%d fragments, want 3", len(out))
		}
		if got := reassemble(t, out, macA, gw, a, 6, 9000); !bytes.Equal(got, reply) {
			t.Errorf("the reply has %d bytes, want %d", len(got), len(reply))
		}
	})
}

// TestFragmentedEchoOfOldWorld: a datagram that began in another world dies.
func TestFragmentedEchoOfOldWorld(t *testing.T) {
	echoFamilies(t, func(t *testing.T, pod, gw string) {
		r := newRig(t)
		request, _ := echoes(t, macA, pod, gw, 3000)
		fragments := fragmentsOf(t, request, 7, 1200)
		r.send("a", fragments[0])
		r.tables.Routes = r.tables.Routes.Insert(mustPrefix(gw), &fib.Hop{Kind: fib.Unreachable})
		r.publish()
		r.send("a", fragments[1])
		r.send("a", fragments[2])
		if n := len(r.got("a")); n != 0 {
			t.Errorf("%d packets came out", n)
		}
		if d := r.sw.Drops(); d[FragmentLost] != 3 {
			t.Errorf("drops are %v, want 3 lost", d)
		}
	})
}

func mustPrefix(a string) netip.Prefix {
	ip := netip.MustParseAddr(a)
	return netip.PrefixFrom(ip, ip.BitLen())
}

// FuzzWhole compares with a bookkeeping byte by byte.
func FuzzWhole(f *testing.F) {
	f.Add([]byte{0, 3, 1, 0, 4, 1, 6, 0})
	f.Add([]byte{4, 1, 6, 0, 0, 3, 1, 0, 0, 3, 1, 0})
	f.Add([]byte{4, 1, 6, 0, 0, 3, 1, 1, 2, 3, 1, 0, 4, 0, 0, 0})
	f.Add([]byte{30, 1, 2, 2, 31, 0, 1, 2, 31, 7, 0, 2})
	h := new(whole)
	f.Fuzz(func(t *testing.T, ops []byte) {
		*h = whole{}
		got := map[int]byte{} // what came for each byte
		size := -1
		for ; len(ops) >= 4; ops = ops[4:] {
			offset, n, more := int(ops[0]%32)*8, int(ops[1]%8+1)*8, ops[2]&1 != 0
			if !more {
				n -= int(ops[2] >> 1 & 7)
			}
			if ops[3]&2 != 0 {
				offset += 65280
			}
			part := make([]byte, n)
			for i := range part {
				part[i] = byte(offset+i)*3 + ops[3]&1
			}
			there, same, behind := 0, true, false
			for i, c := range got {
				switch {
				case i >= offset && i < offset+n:
					there++
					same = same && c == part[i-offset]
				case i >= offset+n:
					behind = true
				}
			}
			end := offset + n
			want := placed
			switch {
			case end > packet.MaxIP, !more && behind, size >= 0 && (more && end >= size || !more && end != size):
				want = overlaps
			case there == n && same && (more || size >= 0):
				want = repeated
			case there > 0:
				want = overlaps
			default:
				for i, c := range part {
					got[offset+i] = c
				}
				if !more {
					size = end
				}
				if len(got) == size {
					want = completed
				}
			}
			if r := h.add(offset, part, more); r != want {
				t.Fatalf("%d bytes at %d, more %v: %d, want %d", n, offset, more, r, want)
			}
			if want == overlaps || want == completed {
				break
			}
		}
		for i, c := range got {
			if h.buf[i] != c {
				t.Fatalf("byte %d is %d, want %d", i, h.buf[i], c)
			}
		}
	})
}
