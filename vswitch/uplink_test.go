package vswitch

import (
	"testing"

	"github.com/google/gopacket/layers"

	"vswitch/vswitch/fib"
)

const hostAddr, peerHost = "192.0.2.1", "192.0.2.2"

// newUplinkRig is a rig in mode direct: what was behind the overlay is behind
// the uplink, and so is the host.
func newUplinkRig(t *testing.T) *rig {
	r := newRig(t)
	r.attach("uplink", PortUplink, [6]byte{})
	up := r.ids["uplink"]
	peer := &fib.Hop{Kind: fib.Peer, Port: up, Peer: testPeer, MTU: 1500, MAC: macPeer, Name: "node2"}
	for p, hop := range map[string]*fib.Hop{
		"10.244.2.0/24": peer, "fd00:10:244:2::/64": peer, peerHost + "/32": peer,
		hostAddr + "/32": {Kind: fib.Host, Port: up, MTU: 1500, Name: "node1"},
	} {
		r.tables.Routes = r.tables.Routes.Insert(prefix(p), hop)
	}
	r.publish()
	return r
}

func TestUplink(t *testing.T) {
	// What comes from the uplink has the addresses that its driver gives it.
	from := func(t *testing.T, src, dst string) []byte {
		return build(t, macVTEP, [6]byte{2, 0, 0, 0, 0, 9}, src, dst, udp(), 10)
	}
	for _, tt := range []struct {
		name, src, dst string
		out            string // port; empty: dropped
		reason         Reason
	}{
		{"from a peer's pod", remote, podA, "a", 0},
		{"from a peer's pod, IPv6", remote6, podA6, "a", 0},
		{"from a peer's host", peerHost, podA, "a", 0},
		{"from the host", hostAddr, podA, "a", 0},
		{"as a pod of this node", podB, podA, "", Spoofed},
		{"as the gateway", gw4, podA, "", Spoofed},
		{"as nobody", "198.51.100.1", podA, "", Spoofed},
		{"as nobody, IPv6", "2001:db8::1", podA6, "", Spoofed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newUplinkRig(t)
			r.send("uplink", from(t, tt.src, tt.dst))
			if tt.out == "" {
				r.none("uplink", tt.reason)
				return
			}
			r.only(tt.out)
			r.send("uplink", from(t, tt.src, tt.dst)) // the flow is known now
			r.only(tt.out)
		})
	}
	for name, dst := range map[string]string{"peer": remote, "peer's host": peerHost, "host": hostAddr} {
		t.Run("to the "+name, func(t *testing.T) {
			r := newUplinkRig(t)
			for range 2 {
				r.send("a", build(t, macGW, macA, podA, dst, udp(), 10))
				r.only("uplink")
			}
		})
	}
}

// TestUplinkNoLoop: what the host sends us by mistake does not go back to it.
func TestUplinkNoLoop(t *testing.T) {
	for _, dst := range []string{"10.244.2.9", hostAddr} {
		r := newUplinkRig(t)
		r.send("uplink", build(t, macVTEP, macPeer, remote, dst, udp(), 10))
		icmp, _ := decode(t, r.only("uplink").frame).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if icmp == nil || icmp.TypeCode != layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeHost) {
			t.Errorf("to %s: got %v, want host unreachable", dst, icmp)
		}
		r.dropped("uplink", NoRoute)
	}
}
