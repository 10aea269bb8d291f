package fabric

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// storm is a cluster whose policies and labels change all the time, and what
// flows there are between its pods.
type storm struct {
	*ground
	rng   *rand.Rand
	keep  bool
	flows []*stormFlow
}

// stormFlow is a flow that has begun.
type stormFlow struct {
	from, to         *Pod
	six              bool
	proto            uint8
	srcPort, dstPort uint16
}

// TestB23Storm: policies come and go, labels of pods and namespaces change, and
// after each change exactly those packets pass that the policies of then allow:
// new flows, and those that have begun, in both directions. Connections of TCP
// that are cut once are over; flows of datagrams go on when they may again.
func TestB23Storm(t *testing.T) {
	for _, established := range []string{agent.CutEstablished, agent.KeepEstablished} {
		t.Run(established, func(t *testing.T) {
			for seed := range uint64(6) {
				s := newStorm(t, seed, established)
				for step := range 120 {
					s.change()
					for range 6 {
						s.begin()
					}
					for i := 0; i < len(s.flows); {
						if s.goesOn(s.flows[i], s.rng.IntN(2) == 0) {
							i++
							continue
						}
						s.flows = append(s.flows[:i], s.flows[i+1:]...)
					}
					if len(s.flows) > 60 {
						s.flows = s.flows[20:]
					}
					if t.Failed() {
						t.Fatalf("seed %d, step %d", seed, step)
					}
				}
			}
		})
	}
}

var stormLabels = []string{"fe", "be", "db"}

func newStorm(t *testing.T, seed uint64, established string) *storm {
	t.Helper()
	o := &cluster.Objects{}
	for _, name := range []string{"x", "y"} {
		o.Namespaces = append(o.Namespaces, &cluster.Namespace{Meta: cluster.Meta{Name: name, Labels: map[string]string{"team": name}}})
	}
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	for n := range 2 {
		o.Nodes = append(o.Nodes, &cluster.Node{Meta: cluster.Meta{Name: fmt.Sprint("n", n+1)}, Addresses: []netip.Addr{addr(fmt.Sprint("172.29.0.", n+1))},
			PodCIDRs: []netip.Prefix{prefix(fmt.Sprintf("10.244.%d.0/24", n+1)), prefix(fmt.Sprintf("fd00:10:244:%d::/64", n+1))}})
		for i := range 4 {
			o.Pods = append(o.Pods, &cluster.Pod{
				Meta: cluster.Meta{Namespace: []string{"x", "y"}[i%2], Name: fmt.Sprintf("p%d%d", n, i), Labels: map[string]string{"role": stormLabels[i%3]}},
				Node: o.Nodes[n].Name, IPs: []netip.Addr{addr(fmt.Sprintf("10.244.%d.%d", n+1, i+2)), addr(fmt.Sprintf("fd00:10:244:%d::%d", n+1, i+2))}})
		}
	}
	state := o.State()
	f, err := FromState(state, Config{Inline: true, Policy: agent.PolicyConfig{Established: established}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.RecordOnFailure(t)
	return &storm{ground: &ground{T: t, f: f, state: state, batch: packet.NewBatch()},
		rng: rand.New(rand.NewPCG(seed, 1)), keep: established == agent.KeepEstablished}
}

// change makes the next State.
func (s *storm) change() {
	next := *s.state
	switch s.rng.IntN(4) {
	case 0: // another label of a pod
		old := s.any()
		p := *s.state.Pod(old)
		p.Labels = map[string]string{"role": s.role()}
		next.Pods = next.Pods.With(old, &p)
	case 1: // another label of a namespace
		ns := *s.state.Namespace([]string{"x", "y"}[s.rng.IntN(2)])
		ns.Labels = map[string]string{"team": []string{"x", "y"}[s.rng.IntN(2)]}
		next.Namespaces = next.Namespaces.With(ns.Key(), &ns)
	default:
		p := s.policy()
		if s.state.NetworkPolicy(p.Key()) != nil && s.rng.IntN(2) == 0 {
			next.NetworkPolicies = next.NetworkPolicies.Without(p.Key())
		} else {
			next.NetworkPolicies = next.NetworkPolicies.With(p.Key(), p)
		}
	}
	s.f.Follow(s.state.Diff(&next))
	s.state = &next
}

func (s *storm) role() string { return stormLabels[s.rng.IntN(len(stormLabels))] }

// any returns the name of a pod.
func (s *storm) any() cluster.Key {
	p := s.f.Pods[s.rng.IntN(len(s.f.Pods))]
	for o := range s.state.Pods.All() {
		if o.Key().String() == p.Name {
			return o.Key()
		}
	}
	panic(p.Name)
}

// policy returns one of a few policies, with new rules.
func (s *storm) policy() *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: []string{"x", "y"}[s.rng.IntN(2)], Name: fmt.Sprint("policy", s.rng.IntN(3))}}
	if s.rng.IntN(3) > 0 {
		p.Pods = *roleIs(s.role())
	}
	p.IsolatesIngress = s.rng.IntN(3) > 0
	p.IsolatesEgress = !p.IsolatesIngress || s.rng.IntN(3) == 0
	rules := func() (out []cluster.PolicyRule) {
		for range s.rng.IntN(3) {
			r := cluster.PolicyRule{Action: cluster.ActionAccept}
			switch s.rng.IntN(4) {
			case 0:
			case 1:
				r.Peers = []cluster.PolicyPeer{{Pods: roleIs(s.role())}}
			case 2:
				r.Peers = []cluster.PolicyPeer{{Namespaces: labelIs("team", []string{"x", "y"}[s.rng.IntN(2)])}}
			default:
				r.Peers = []cluster.PolicyPeer{{Blocks: []cluster.IPBlock{{CIDR: netip.MustParsePrefix("10.244.1.0/24")}}}}
			}
			if s.rng.IntN(2) == 0 {
				r.Ports = []cluster.PolicyPort{{Protocol: []uint8{packet.ProtoTCP, packet.ProtoUDP}[s.rng.IntN(2)], First: 80, Last: 81}}
			}
			out = append(out, r)
		}
		return out
	}
	p.Ingress, p.Egress = rules(), rules()
	return p
}

func labelIs(key, value string) *cluster.Selector {
	return &cluster.Selector{Requirements: []cluster.Requirement{{Key: key, Operator: cluster.SelectIn, Values: []string{value}}}}
}

func roleIs(role string) *cluster.Selector { return labelIs("role", role) }

// allowed is what the API says of a flow, in the words of the API: whoever is
// isolated in a direction may do what some policy allows.
func (s *storm) allowed(f *stormFlow) bool {
	from, to := s.noun(f.from), s.noun(f.to)
	if from == to {
		return true
	}
	src, dst := f.addrs()
	side := func(own, other *cluster.Pod, addr netip.Addr, isolates func(*cluster.NetworkPolicy) (bool, []cluster.PolicyRule)) bool {
		isolated := false
		for p := range s.state.NetworkPolicies.All() {
			is, rules := isolates(p)
			if !is || p.Namespace != own.Namespace || len(p.Pods.Requirements) > 0 && p.Pods.Requirements[0].Values[0] != own.Labels["role"] {
				continue
			}
			isolated = true
			for _, r := range rules {
				if s.matches(p, &r, other, addr, f.proto, f.dstPort) {
					return true
				}
			}
		}
		return !isolated
	}
	return side(from, to, dst, func(p *cluster.NetworkPolicy) (bool, []cluster.PolicyRule) { return p.IsolatesEgress, p.Egress }) &&
		side(to, from, src, func(p *cluster.NetworkPolicy) (bool, []cluster.PolicyRule) { return p.IsolatesIngress, p.Ingress })
}

func (s *storm) matches(p *cluster.NetworkPolicy, r *cluster.PolicyRule, other *cluster.Pod, addr netip.Addr, proto uint8, port uint16) bool {
	if len(r.Ports) > 0 && (r.Ports[0].Protocol != proto || port < r.Ports[0].First || port > r.Ports[0].Last) {
		return false
	}
	if len(r.Peers) == 0 {
		return true
	}
	switch peer := r.Peers[0]; {
	case peer.Blocks != nil:
		return peer.Blocks[0].CIDR.Contains(addr)
	case peer.Namespaces != nil:
		return s.state.Namespace(other.Namespace).Labels["team"] == peer.Namespaces.Requirements[0].Values[0]
	default:
		return other.Namespace == p.Namespace && other.Labels["role"] == peer.Pods.Requirements[0].Values[0]
	}
}

func (s *storm) noun(p *Pod) *cluster.Pod {
	for o := range s.state.Pods.All() {
		if o.Key().String() == p.Name {
			return o
		}
	}
	panic(p.Name)
}

func (f *stormFlow) addrs() (src, dst netip.Addr) {
	i := 0
	if f.six {
		i = 1
	}
	return f.from.IPs[i].Addr(), f.to.IPs[i].Addr()
}

// begin sends the first packet of a flow; if it passes, the flow goes on.
func (s *storm) begin() {
	s.sent++
	f := &stormFlow{from: s.f.Pods[s.rng.IntN(len(s.f.Pods))], to: s.f.Pods[s.rng.IntN(len(s.f.Pods))], six: s.rng.IntN(2) == 0,
		proto: []uint8{packet.ProtoTCP, packet.ProtoUDP}[s.rng.IntN(2)], srcPort: 20000 + s.sent, dstPort: uint16(80 + s.rng.IntN(3))}
	if f.from == f.to {
		return
	}
	want := s.allowed(f)
	if got := s.send(f, false, func(l *layers.TCP) { l.SYN = true }); got != want {
		s.Errorf("a new flow %s: passed %v, want %v", s.name(f), got, want)
	}
	if !want {
		return
	}
	if f.proto == packet.ProtoTCP {
		s.send(f, true, func(l *layers.TCP) { l.SYN, l.ACK = true, true })
		s.send(f, false, func(l *layers.TCP) { l.ACK = true })
	}
	s.flows = append(s.flows, f)
}

// goesOn sends a packet of a flow, or an answer, and reports whether there will be more.
func (s *storm) goesOn(f *stormFlow, answer bool) bool {
	want := s.keep || s.allowed(f)
	if got := s.send(f, answer, func(l *layers.TCP) { l.ACK = true }); got != want {
		s.Errorf("a flow %s that had begun, answer %v: passed %v, want %v", s.name(f), answer, got, want)
	}
	return want || f.proto == packet.ProtoUDP
}

func (s *storm) name(f *stormFlow) string {
	src, dst := f.addrs()
	return fmt.Sprintf("%s %s:%d (%s) to %s:%d (%s)", packet.ProtoName(f.proto), src, f.srcPort, f.from.Name, dst, f.dstPort, f.to.Name)
}

// send sends a packet of a flow and reports whether it came out where it is for.
// Nothing may come out elsewhere but what tells that a connection is over: a reset,
// or an ACK without data.
func (s *storm) send(f *stormFlow, answer bool, flags func(*layers.TCP)) bool {
	s.Helper()
	from, to := f.from, f.to
	src, dst := f.addrs()
	srcPort, dstPort := f.srcPort, f.dstPort
	if answer {
		from, to, src, dst, srcPort, dstPort = to, from, dst, src, dstPort, srcPort
	}
	mac := from.Node.Switch.Tables().GatewayMAC
	if from.Node == to.Node {
		mac = to.MAC
	}
	s.batch.Reset()
	s.batch.Append(transport(s.T, mac, from.MAC, src, dst, f.proto, srcPort, dstPort, flags))
	if n, err := from.End.Write(s.batch, []uint16{0}); n != 1 || err != nil {
		s.Fatalf("%s cannot send: %d, %v", from.Name, n, err)
	}
	s.f.Settle()
	came := 0
	for _, p := range s.f.Pods {
		s.batch.Reset()
		n, err := p.End.Read(s.batch, packet.BatchSize)
		if err != nil {
			s.Fatal(err)
		}
		for i := range n {
			q := &s.batch.Packets[i]
			s.batch.Parse(q)
			switch {
			case q.Tuple.Proto == packet.ProtoTCP && (q.TCPFlags&packet.TCPRst != 0 || q.TCPFlags == packet.TCPAck && int(q.Len) == int(q.L4)+20):
			case p == to && q.Tuple.Src.Netip() == src && q.Tuple.SrcPort == srcPort && q.Tuple.DstPort == dstPort:
				came++
			default:
				s.Errorf("%s got %s, when %s was sent to %s", p.Name, q.Tuple, from.Name, to.Name)
			}
		}
	}
	return came == 1
}
