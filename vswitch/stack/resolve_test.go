package stack

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/packet"
)

// TestResolve looks at how neighbours and the gateway are found: by ARP and ND,
// answered by a switch that is played by the wire.
func TestResolve(t *testing.T) {
	gateway := [6]byte{2, 0, 0, 0, 0, 0xfe}
	s := pod(t, 0, 1450)
	var mu sync.Mutex
	seen := map[string]int{}
	wake := make(chan struct{}, 1)
	s.Notify(func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		b, release := borrow()
		defer release()
		for range wake {
			for {
				b.Reset()
				n, err := s.Read(b, 64)
				if err != nil {
					return
				}
				if n == 0 {
					break
				}
				for i := range b.Packets {
					what, answer := play(t, gateway, b.Frame(&b.Packets[i]))
					mu.Lock()
					seen[what]++
					mu.Unlock()
					if answer != nil {
						out, releaseout := borrow()
						defer releaseout()
						out.Append(answer)
						s.Write(out, []uint16{0})
					}
				}
			}
		}
	})
	t.Cleanup(func() { s.Close(); wg.Wait() })
	for _, to := range []string{"192.0.2.9", "2001:db8::9", addrs4[1].String(), addrs6[1].String()} {
		if _, err := s.Ping(limited(t), netip.MustParseAddr(to), 32); err != nil {
			t.Errorf("ping %s: %v", to, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := map[string]int{
		"ff:ff:ff:ff:ff:ff arp 10.244.0.254":                        1,
		"ff:ff:ff:ff:ff:ff arp 10.244.0.2":                          1,
		"33:33:ff:00:00:fe nd fd00:10:244::fe from fd00:10:244::1":  1,
		"33:33:ff:00:00:02 nd fd00:10:244::2 from fd00:10:244::1":   1,
		"02:00:00:00:00:fe echo 192.0.2.9 from 10.244.0.1":          1,
		"02:00:00:00:00:fe echo 2001:db8::9 from fd00:10:244::1":    1,
		"02:00:00:00:00:02 echo 10.244.0.2 from 10.244.0.1":         1,
		"02:00:00:00:00:02 echo fd00:10:244::2 from fd00:10:244::1": 1,
	}
	for k, n := range want {
		if seen[k] != n {
			t.Errorf("saw %q %d times, want %d", k, seen[k], n)
		}
	}
	for k := range seen {
		if want[k] == 0 {
			t.Errorf("saw %q", k)
		}
	}
}

// play names a frame and answers it as a switch would: gateway addresses are
// at the gateway's MAC, others at macs[1], and everybody answers echo requests.
func play(t *testing.T, gateway [6]byte, f []byte) (what string, answer []byte) {
	pkt := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	eth := pkt.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	what = eth.DstMAC.String()
	back := &layers.Ethernet{SrcMAC: hw(macs[1]), DstMAC: eth.SrcMAC, EthernetType: eth.EthernetType}
	own := func(ip net.IP) {
		if a, _ := netip.AddrFromSlice(ip); a == gate4 || a == gate6 {
			back.SrcMAC = hw(gateway)
		}
	}
	if l := pkt.Layer(layers.LayerTypeARP); l != nil {
		q := l.(*layers.ARP)
		own(q.DstProtAddress)
		return what + " arp " + net.IP(q.DstProtAddress).String(), serialize(t, back, &layers.ARP{
			AddrType: q.AddrType, Protocol: q.Protocol, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
			SourceHwAddress: back.SrcMAC, SourceProtAddress: q.DstProtAddress,
			DstHwAddress: q.SourceHwAddress, DstProtAddress: q.SourceProtAddress,
		})
	}
	if l := pkt.Layer(layers.LayerTypeICMPv6NeighborSolicitation); l != nil {
		ip := pkt.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		target := l.(*layers.ICMPv6NeighborSolicitation).TargetAddress
		own(target)
		out := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: target, DstIP: ip.SrcIP}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
		icmp.SetNetworkLayerForChecksum(out)
		return what + " nd " + target.String() + " from " + ip.SrcIP.String(), serialize(t, back, out, icmp, &layers.ICMPv6NeighborAdvertisement{
			Flags: 0x60, TargetAddress: target,
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: back.SrcMAC}},
		})
	}
	b, release := borrow()
	defer release()
	p := b.Append(f)
	b.Parse(p)
	if p.Class != packet.Flow {
		return what + " " + pkt.String(), nil
	}
	what += " echo " + p.Tuple.Dst.String() + " from " + p.Tuple.Src.String()
	if !b.EchoReply(p) {
		return what + " not an echo request", nil
	}
	b.SetEthernet(p, &macs[0], &macs[1])
	return what, b.Frame(p)
}
