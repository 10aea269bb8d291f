package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/trace/servicetest"
)

// bypassing is a row of which a packet went past the balancer.
type bypassing struct {
	*question
	// from is the client's, and refused what it asked a closed port of the node with:
	// a reset shows that answers would have been seen.
	from, refused netip.AddrPort
}

// bypass puts the first packets of rows into their nodes' ports to the outside,
// as a balancer would that does not ask nodes for their health, and returns what
// is wrong.
func (f *tableLab) bypass(list []*question) (problems []string) {
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all []bypassing
	watched := map[string]bool{}
	for _, q := range list {
		if node := q.row.At; !watched[node] {
			if _, err := agent.NewClient(f.sockets[node]).Sights(ctx, "", f.noteBypass); err != nil {
				return append(problems, fmt.Sprintf("%s: %v", node, err))
			}
			watched[node] = true
		}
		client := f.addr("outBypass", q.row.Source)
		b := bypassing{q, netip.AddrPortFrom(client, f.ports(1)), netip.AddrPortFrom(client, f.ports(1))}
		if err := f.startBypass(&b); err != nil {
			return append(problems, fmt.Sprintf("%s: %v", q.row.Text, err))
		}
		all = append(all, b)
	}
	time.Sleep(silenceLimit)
	for _, b := range all {
		if problem := f.judgeBypass(&b); problem != "" {
			problems = append(problems, fmt.Sprintf("%s: %s", b.row.Text, problem))
		}
	}
	return problems
}

// startBypass sends what there is to send, and returns when the node has answered
// what is not the row's.
func (f *tableLab) startBypass(b *bypassing) error {
	node := b.row.At
	if err := f.putOutside(node, b.row.Proto, b.from, b.row.Target); err != nil {
		return err
	}
	if at := f.entryOf(b.row.Proto, b.from, b.row.Target, answerWithin); at != node {
		return fmt.Errorf("%s was sent to %s, and came in at %q", b.from, node, at)
	}
	if err := f.putOutside(node, "tcp", b.refused, netip.AddrPortFrom(f.addr(node, b.from.Addr()), closedPort)); err != nil {
		return err
	}
	if !f.saw(func(s *agent.Sight) bool { return s.Out && s.Port == "outside" && s.Destination == b.refused }) {
		return fmt.Errorf("%s refuses nothing to %s", node, b.refused)
	}
	return nil
}

// judgeBypass says what is wrong with what was seen of a row.
func (f *tableLab) judgeBypass(b *bypassing) string {
	if b.row.Fate == servicetest.Delivered {
		at := b.row.Endpoints[0]
		if !f.saw(func(s *agent.Sight) bool {
			return s.Out && s.Port == f.portOf(at.Addr()) && s.Source == b.from && s.Destination == at
		}) {
			return fmt.Sprintf("%s has not seen %s; seen of the client were %v", at, b.from, f.sightsOf(b.from))
		}
		if !f.saw(func(s *agent.Sight) bool {
			return s.Out && s.Port == "outside" && s.Source == b.row.Target && s.Destination == b.from
		}) {
			return fmt.Sprintf("%s had no answer", b.from)
		}
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.bypassed {
		// An ICMP error has no ports, and might be about another row.
		answer := s.Destination == b.from || s.Node == b.row.At && s.Destination.Port() == 0 && s.Destination.Addr() == b.from.Addr()
		if s.Out && answer || s.Out && s.Source == b.from {
			return fmt.Sprintf("from %s, and %s at %s sends %s from %s to %s", b.from, s.Node, s.Port, s.Proto, s.Source, s.Destination)
		}
	}
	return ""
}

// sightsOf returns what was seen of a client, for who looks for what was not.
func (f *tableLab) sightsOf(client netip.AddrPort) (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.bypassed {
		if s.Source.Port() == client.Port() || s.Destination.Port() == client.Port() {
			list = append(list, fmt.Sprintf("%s at %s, out %v: %s > %s", s.Node, s.Port, s.Out, s.Source, s.Destination))
		}
	}
	return list
}

// noteBypass keeps what is from outBypass, or for it.
func (f *tableLab) noteBypass(s agent.Sight) {
	if !s.Source.IsValid() {
		return
	}
	if a := f.addr("outBypass", s.Source.Addr()); s.Source.Addr() == a || s.Destination.Addr() == a {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.bypassed = append(f.bypassed, s)
	}
}

// saw reports whether there is such a sight, in reasonable time.
func (f *tableLab) saw(what func(*agent.Sight) bool) bool {
	for end := time.Now().Add(answerWithin); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		found := false
		for i := range f.bypassed {
			found = found || what(&f.bypassed[i])
		}
		f.mu.Unlock()
		if found || time.Now().After(end) {
			return found
		}
	}
}

// closedPort is one at which no node has a server.
const closedPort = 9

// putOutside puts the first packet of a connection into a node's port to the
// outside.
func (f *tableLab) putOutside(node, proto string, from, to netip.AddrPort) error {
	o := f.outside[node]
	mac, err := net.ParseMAC(o.GatewayMAC)
	if err != nil {
		return err
	}
	eth := &layers.Ethernet{DstMAC: mac, SrcMAC: net.HardwareAddr{2, 'o', 'u', 't', 0, 1}, EthernetType: layers.EthernetTypeIPv4}
	protos := map[string]layers.IPProtocol{"tcp": layers.IPProtocolTCP, "udp": layers.IPProtocolUDP, "sctp": layers.IPProtocolSCTP}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	} = &layers.IPv4{Version: 4, TTL: 64, Protocol: protos[proto], SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	if !from.Addr().Is4() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protos[proto], SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	}
	all := []gopacket.SerializableLayer{eth, ip}
	switch proto {
	case "tcp":
		l := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Window: 1000, SYN: true}
		_ = l.SetNetworkLayerForChecksum(ip) // fails for no IP layer only
		all = append(all, l)
	case "udp":
		l := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
		_ = l.SetNetworkLayerForChecksum(ip)
		all = append(all, l, gopacket.Payload("hi"))
	case "sctp":
		all = append(all, &layers.SCTP{SrcPort: layers.SCTPPort(from.Port()), DstPort: layers.SCTPPort(to.Port())},
			&layers.SCTPInit{SCTPChunk: layers.SCTPChunk{Type: layers.SCTPChunkTypeInit}, InitiateTag: 1, OutboundStreams: 1, InboundStreams: 1})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		return err
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: o.Socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(buf.Bytes())
	return err
}

// outsidePort returns a node's port to the outside, which is attached already.
func (f *tableLab) outsidePort(ctx context.Context, n *Node) (agent.OutsideStatus, error) {
	a := agent.NewClient(n.Socket)
	defer a.Close()
	return a.AttachOutside(ctx, agent.OutsideRequest{Socket: filepath.Join(filepath.Dir(n.Socket), "out.sock"),
		Remote: filepath.Join(f.client.Dir(), "outside.sock"), Prefixes: outsideAddrs})
}
