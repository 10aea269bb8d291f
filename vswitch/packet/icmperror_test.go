package packet

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// icmpErrorFrame builds the ICMP error from a router to dst about the first n
// bytes of the IP packet in cause.
func icmpErrorFrame(t testing.TB, router, dst netip.Addr, cause []byte, n int) []byte {
	t.Helper()
	cause = cause[EthernetLen:]
	cause = cause[:min(n, len(cause))]
	s := frameSpec{src: router, dst: dst, proto: layers.IPProtocolICMPv4, ttl: 60}
	if router.Is6() {
		s.proto = layers.IPProtocolICMPv6
	}
	eth, ip, pseudo := s.network()
	all := []gopacket.SerializableLayer{eth, ip}
	if router.Is6() {
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0)}
		l.SetNetworkLayerForChecksum(pseudo)
		all = append(all, l, gopacket.Payload([]byte{0, 0, 5, 20}))
	} else {
		all = append(all, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1300})
	}
	return serialize(t, append(all, gopacket.Payload(cause))...)
}

// TestB11RewriteError has a client behind a service address and a masquerade:
// the error about the translated packet must come out as the error about the
// packet that the client sent.
func TestB11RewriteError(t *testing.T) {
	b := NewBatch()
	for _, v6 := range []bool{false, true} {
		router, router2 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("10.244.0.1")
		if v6 {
			router, router2 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fd00::1")
		}
		for name, sent := range rewritten(v6) {
			for what, onWire := range targets(sent) {
				for _, n := range []int{48, 28, 60, 81, 500, 6000} {
					if v6 {
						n += 20
					}
					if sent.proto == layers.IPProtocolSCTP && n < 6000 {
						continue // TestRewriteErrorSCTP
					}
					t.Run(fmt.Sprintf("%s/v6=%v/%s/%d", name, v6, what, n), func(t *testing.T) {
						b.Reset()
						p := b.Append(icmpErrorFrame(t, router, onWire.src, onWire.frame(t), n))
						b.Parse(p)
						inner, ok := b.ErrorTuple(p)
						if !ok || inner != onWire.tuple() {
							t.Fatalf("%v: inner %v (%v), want %v", p.Class, inner, ok, onWire.tuple())
						}
						src, dst, was := AddrFrom(router2), AddrFrom(sent.src), sent.tuple()
						if !b.RewriteError(p, &src, &dst, &was) {
							t.Fatal("refused")
						}
						want := icmpErrorFrame(t, router2, sent.src, sent.frame(t), n)
						if got := b.Frame(p); !bytes.Equal(got, want) {
							t.Errorf("%s", difference(got, want))
						}
						if b.Parse(p); !b.VerifyTransport(p) {
							t.Error("the ICMP checksum is wrong")
						}
					})
				}
			}
		}
	}
}

// TestRewriteErrorSCTP has too little of the packet to mend its CRC32c; all
// else must be right.
func TestRewriteErrorSCTP(t *testing.T) {
	sent := rewritten(false)["sctp"]
	onWire := targets(sent)["all"]
	b := NewBatch()
	for _, n := range []int{28, 32, 60} {
		b.Reset()
		p := b.Append(icmpErrorFrame(t, b4, onWire.src, onWire.frame(t), n))
		b.Parse(p)
		src, dst, was := AddrFrom(b4), AddrFrom(sent.src), sent.tuple()
		if !b.RewriteError(p, &src, &dst, &was) {
			t.Fatal("refused")
		}
		if b.Parse(p); !b.VerifyTransport(p) {
			t.Errorf("%d bytes: the ICMP checksum is wrong", n)
		}
		if inner, ok := b.ErrorTuple(p); !ok || inner != was {
			t.Errorf("%d bytes: inner %v, want %v", n, inner, was)
		}
	}
}

func TestRewriteErrorKeepsErrors(t *testing.T) {
	b := NewBatch()
	sent := tcp(false, pattern(50))
	to := targets(sent)["all"]
	f := icmpErrorFrame(t, b4, to.src, to.frame(t), 60)
	f[36] ^= 1
	p := b.Append(f)
	b.Parse(p)
	src, dst, was := AddrFrom(b4), AddrFrom(sent.src), sent.tuple()
	if b.RewriteError(p, &src, &dst, &was); b.VerifyTransport(p) {
		t.Error("a wrong ICMP checksum was mended")
	}
}

func TestErrorTupleRefuses(t *testing.T) {
	b := NewBatch()
	s := udp(false, pattern(2000))
	s.ipFlags = 0
	echo := rewritten(false)["echo/8"]
	unreachable := echo
	unreachable.icmpType = 3
	inner6 := udp(true, pattern(100))
	tests := map[string][]byte{
		"later fragment":   icmpErrorFrame(t, b4, a4, s.fragments(t, 800)[1], 60),
		"cut off in ports": icmpErrorFrame(t, b4, a4, s.frame(t), 22),
		"cut off in IP":    icmpErrorFrame(t, b4, a4, s.frame(t), 19),
		"nothing":          icmpErrorFrame(t, b4, a4, s.frame(t), 0),
		"about an error":   icmpErrorFrame(t, b4, a4, unreachable.frame(t), 60),
		"other family":     icmpErrorFrame(t, b4, a4, inner6.frame(t), 100),
		"not an error":     echo.frame(t),
	}
	for name, f := range tests {
		b.Reset()
		p := b.Append(f)
		b.Parse(p)
		a := AddrFrom(a4)
		if tuple, ok := b.ErrorTuple(p); ok || b.RewriteError(p, &a, &a, &tuple) {
			t.Errorf("%s: accepted as %v", name, tuple)
		}
		if !bytes.Equal(f[:p.Len], b.Frame(p)) {
			t.Errorf("%s: changed", name)
		}
	}
	p := b.Append(icmpErrorFrame(t, b4, a4, s.frame(t), 60))
	b.Parse(p)
	tuple, _ := b.ErrorTuple(p)
	if a, w := AddrFrom(a4), AddrFrom(a6); b.RewriteError(p, &a, &w, &tuple) {
		t.Error("an address of the other family was accepted")
	}
}

// FuzzRewriteError takes any bytes for an ICMP error: no panic, and if it was
// right, it stays right.
func FuzzRewriteError(f *testing.F) {
	f.Add(icmpErrorFrame(f, b4, a4, tcp(false, pattern(9)).frame(f), 60))
	f.Add(icmpErrorFrame(f, b6, a6, udp(true, pattern(99)).frame(f), 600))
	f.Add(icmpErrorFrame(f, b6, a6, rewritten(true)["echo/8"].frame(f), 600))
	f.Add(icmpErrorFrame(f, b6, a6, udp(true, pattern(99)).fragments(f, 80)[0], 600))
	b := NewBatch()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 3000 {
			return
		}
		b.Reset()
		p := b.Append(data)
		b.Parse(p)
		tuple, ok := b.ErrorTuple(p)
		if !ok {
			return
		}
		right := b.VerifyTransport(p)
		p.Flags = 0
		to := tuple.Reverse()
		to.SrcPort += 77
		if ok = b.RewriteError(p, &to.Dst, &to.Src, &to); !ok {
			t.Fatal("refused")
		}
		if b.VerifyTransport(p) != right {
			t.Fatalf("right: was %v", right)
		}
	})
}
