package vswitch

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"vswitch/policy"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// world is the cluster of a rig as policy sees it: pods a and b of node1, and far
// of node2.
func world(ps ...*cluster.NetworkPolicy) *cluster.State {
	pod := func(name, node string, ips ...string) *cluster.Pod {
		p := &cluster.Pod{Meta: cluster.Meta{Namespace: "x", Name: name, Labels: map[string]string{"name": name}}, Node: node}
		for _, ip := range ips {
			p.IPs = append(p.IPs, netip.MustParseAddr(ip))
		}
		return p
	}
	node := func(name, ip string) *cluster.Node {
		return &cluster.Node{Meta: cluster.Meta{Name: name}, Addresses: []netip.Addr{netip.MustParseAddr(ip)}}
	}
	o := cluster.Objects{
		Namespaces:      []*cluster.Namespace{{Meta: cluster.Meta{Name: "x"}}},
		Nodes:           []*cluster.Node{node("node1", nodeIP), node("node2", "172.29.0.2")},
		Pods:            []*cluster.Pod{pod("a", "node1", podA, podA6), pod("b", "node1", podB, podB6), pod("far", "node2", remote, remote6)},
		NetworkPolicies: ps,
	}
	return o.State()
}

// enforce makes the rig's policies those of a state.
func (r *rig) enforce(ps ...*cluster.NetworkPolicy) {
	c := policy.NewCompiler("node1")
	changes := new(cluster.State).Diff(world(ps...))
	c.Apply(&changes)
	r.tables.Policy = c.Set()
	r.publish()
}

// only returns a policy that lets pod hear, or say, what the rules allow.
func ingressOnly(pod string, rules ...cluster.PolicyRule) *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: "x", Name: "in"}, Pods: named(pod), IsolatesIngress: true, Ingress: rules}
}

func egressOnly(pod string, rules ...cluster.PolicyRule) *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{Meta: cluster.Meta{Namespace: "x", Name: "out"}, Pods: named(pod), IsolatesEgress: true, Egress: rules}
}

func named(pod string) cluster.Selector {
	return cluster.Selector{Requirements: []cluster.Requirement{{Key: "name", Operator: cluster.SelectIn, Values: []string{pod}}}}
}

// rule allows a peer on ports of a protocol; none: everything.
func rule(peer string, proto uint8, ports ...uint16) cluster.PolicyRule {
	s := named(peer)
	r := cluster.PolicyRule{Action: cluster.ActionAccept, Peers: []cluster.PolicyPeer{{Pods: &s}}}
	for _, p := range ports {
		r.Ports = append(r.Ports, cluster.PolicyPort{Protocol: proto, First: p, Last: p})
	}
	return r
}

// pair is two ends of a path through the switch, and frames between them.
type pair struct {
	from, to       string // ports
	fromIP, toIP   string
	fromMAC, toMAC [6]byte // as the switch is addressed from there
	toVia, fromVia [6]byte
}

// pairs are bridged, routed to a peer and routed from one, in both families.
func pairs(t *testing.T, f func(t *testing.T, p pair)) {
	for name, p := range map[string]pair{
		"bridged":   {"a", "b", podA, podB, macA, macB, macB, macA},
		"bridged 6": {"a", "b", podA6, podB6, macA, macB, macB, macA},
		"to peer":   {"a", "overlay", podA, remote, macA, macPeer, macGW, macVTEP},
		"to peer 6": {"a", "overlay", podA6, remote6, macA, macPeer, macGW, macVTEP},
	} {
		t.Run(name, func(t *testing.T) { f(t, p) })
	}
}

func (p pair) there(t *testing.T, l4 layers.TCP) []byte {
	return build(t, p.toVia, p.fromMAC, p.fromIP, p.toIP, &l4, 0)
}

func (p pair) back(t *testing.T, l4 layers.TCP) []byte {
	l4.SrcPort, l4.DstPort = l4.DstPort, l4.SrcPort
	return build(t, p.fromVia, p.toMAC, p.toIP, p.fromIP, &l4, 0)
}

// TestPolicyEgress: what the sender may not say dies in silence at its port, and
// nothing of it is remembered.
func TestPolicyEgress(t *testing.T) {
	pairs(t, func(t *testing.T, p pair) {
		r := newRig(t)
		r.enforce(egressOnly("a", rule("b", packet.ProtoTCP, 80), rule("far", packet.ProtoTCP, 80)))
		r.send(p.from, p.there(t, *tcpPorts(1000, 80, "syn")))
		r.only(p.to)
		r.send(p.from, p.there(t, *tcpPorts(1000, 81, "syn")))
		r.none(p.from, PolicyEgress)
		if n := r.sw.Conns().Len(); n != 1 {
			t.Errorf("%d connections are known, want the allowed one", n)
		}
	})
}

// TestPolicyIngress: what the receiver may not hear dies, from this node and from
// another.
func TestPolicyIngress(t *testing.T) {
	for name, from := range map[string]struct {
		port, ip, peer string
		src, dst       [6]byte
	}{
		"bridged":   {"a", podA, "a", macA, macB},
		"from peer": {"overlay", remote, "far", macPeer, macVTEP},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.enforce(ingressOnly("b", rule(from.peer, packet.ProtoUDP, 53)))
			r.send(from.port, build(t, from.dst, from.src, from.ip, podB, udpPorts(1000, 53), 10))
			r.only("b")
			r.send(from.port, build(t, from.dst, from.src, from.ip, podB, udpPorts(1000, 54), 10))
			r.none(from.port, PolicyIngress)
		})
	}
}

// TestB22Replies: policy is asked about who begins, never about answers, also
// when they come late or the world has changed.
func TestB22Replies(t *testing.T) {
	pairs(t, func(t *testing.T, p pair) {
		r := newRig(t)
		lone := []*cluster.NetworkPolicy{ingressOnly("a"), egressOnly("b")}
		r.enforce(lone...)
		r.send(p.from, p.there(t, *tcpPorts(1000, 80, "syn")))
		r.only(p.to)
		for range 3 {
			r.send(p.to, p.back(t, *tcpPorts(1000, 80, "syn", "ack")))
			r.only(p.from)
			r.now += 30 * time.Second
			r.enforce(lone...)
		}
		// The other way round it is another connection.
		r.send(p.to, p.back(t, *tcpPorts(1001, 81, "syn")))
		want := PolicyIngress
		if p.to == "b" {
			want = PolicyEgress
		}
		r.none(p.to, want)
	})
}

// TestB22Related: errors about what was allowed come through.
func TestB22Related(t *testing.T) {
	r := newRig(t)
	r.enforce(ingressOnly("a"))
	sent := build(t, macGW, macA, podA, remote, udpPorts(1000, 53), 10)
	r.send("a", sent)
	r.only("overlay")
	quoted := append([]byte{}, sent[14:]...)
	r.send("overlay", buildBody(t, macVTEP, macPeer, remote, podA,
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort)}, quoted))
	r.only("a")
}

// TestB23Cut: when a connection is no longer allowed, neither end's packets pass,
// and both are told: who sends by a reset, and the other one by a packet that it
// has to answer, with one that is reset.
func TestB23Cut(t *testing.T) {
	pairs(t, func(t *testing.T, p pair) {
		r := newRig(t)
		r.enforce()
		r.send(p.from, p.there(t, *tcpPorts(1000, 80, "syn")))
		r.only(p.to)
		r.send(p.to, p.back(t, *tcpPorts(1000, 80, "syn", "ack")))
		r.only(p.from)
		r.enforce(egressOnly("a"))
		for _, end := range []struct {
			port  string
			frame []byte
		}{{p.from, p.there(t, *tcpPorts(1000, 80, "ack"))}, {p.to, p.back(t, *tcpPorts(1000, 80, "ack"))}} {
			r.send(end.port, end.frame)
			if end.port == p.from {
				r.prodded(p.to)
			}
			rst, _ := decode(t, r.only(end.port).frame).Layer(layers.LayerTypeTCP).(*layers.TCP)
			if rst == nil || !rst.RST {
				t.Fatalf("%s got %v, want an RST", end.port, rst)
			}
			r.dropped(end.port, PolicyEgress)
		}
		// Nothing but an RST, not even for one: no storm.
		r.send(p.from, p.there(t, *tcpPorts(1000, 80, "rst")))
		for name := range r.ends {
			if out := r.got(name); len(out) > 0 {
				t.Fatalf("an RST came out at %s: %s", name, describe(out[0].frame))
			}
		}
	})
}

// prodded takes the one packet that came out at a port, which says nothing but
// that it wants an answer.
func (r *rig) prodded(at string) {
	r.t.Helper()
	out := r.got(at)
	if len(out) != 1 {
		r.t.Fatalf("%d packets came out at %s, want a bare ACK", len(out), at)
	}
	p := decode(r.t, out[0].frame)
	if l, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP); l == nil || !l.ACK || l.SYN || l.RST || l.FIN || len(l.Payload) > 0 {
		r.t.Fatalf("at %s came out, instead of a bare ACK: %s", at, p)
	}
}

// TestB23CutUDP: a flow of datagrams that is cut goes on when it is allowed again;
// what was no longer allowed stays so while nobody knows the policies.
func TestB23CutUDP(t *testing.T) {
	r := newRig(t)
	say := func() { r.send("a", build(t, macB, macA, podA, podB, udpPorts(1000, 53), 10)) }
	r.enforce()
	say()
	r.only("b")
	known := r.tables.Policy
	r.enforce(egressOnly("a"))
	say()
	r.none("a", PolicyEgress)
	r.tables.Policy = policy.NewCompiler("node1").Set()
	r.publish()
	say()
	if out := r.got("b"); len(out) > 0 {
		t.Errorf("a flow that was denied passes while nothing is known")
	}
	r.tables.Policy = known
	r.publish()
	say()
	r.only("b")
	r.tables.Policy = policy.NewCompiler("node1").Set()
	r.publish()
	say()
	r.only("b")
}

// TestB23Keep: with that option, connections outlive what allowed them, and new
// ones do not begin.
func TestB23Keep(t *testing.T) {
	r := newRig(t)
	r.tables.KeepEstablished = true
	r.enforce()
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 80, "syn"), 0))
	r.only("b")
	r.enforce(egressOnly("a"), ingressOnly("b"))
	r.send("b", build(t, macA, macB, podB, podA, tcpPorts(80, 1000, "syn", "ack"), 0))
	r.only("a")
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 80, "ack"), 0))
	r.only("b")
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1001, 80, "syn"), 0))
	r.none("a", PolicyEgress)
}

// TestB23Removed: removing policies, or adding one that allows it, never breaks
// a connection.
func TestB23Removed(t *testing.T) {
	r := newRig(t)
	allow := ingressOnly("b", rule("a", packet.ProtoTCP, 80))
	r.enforce(allow)
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 80, "syn"), 0))
	r.only("b")
	for _, ps := range [][]*cluster.NetworkPolicy{{}, {egressOnly("a", rule("b", packet.ProtoTCP, 80))}, {allow}, {}} {
		r.enforce(ps...)
		r.send("b", build(t, macA, macB, podB, podA, tcpPorts(80, 1000, "ack"), 0))
		r.only("a")
		r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 80, "ack"), 0))
		r.only("b")
	}
}

// TestPolicyOfBackend: a packet to a service is judged by the backend that was
// chosen, never by the service's address.
func TestPolicyOfBackend(t *testing.T) {
	r := newRig(t)
	r.serve(0, podB)
	r.enforce(egressOnly("a", rule("b", packet.ProtoTCP, 8080)))
	r.send("a", build(t, macGW, macA, podA, vip, tcpPorts(1000, 80, "syn"), 0))
	r.only("b")
	r.enforce(egressOnly("a", rule("b", packet.ProtoTCP, 80)))
	r.send("a", build(t, macGW, macA, podA, vip, tcpPorts(1001, 80, "syn"), 0))
	r.none("a", PolicyEgress)
	// The one that is known is judged in the same words.
	r.send("a", build(t, macGW, macA, podA, vip, tcpPorts(1000, 80, "ack"), 0))
	r.prodded("b")
	rst := decode(t, r.only("a").frame)
	if src := rst.NetworkLayer().NetworkFlow().Src().String(); src != vip {
		t.Errorf("the RST comes from %s, want the service's address", src)
	}
}

// TestB20PolicyOfFragments: the first fragment is judged, the others go its way
// or nowhere, in whatever order they come.
func TestB20PolicyOfFragments(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		r := newRig(t)
		r.enforce(ingressOnly("b", rule("a", packet.ProtoUDP, 53)))
		for port, passes := range map[uint16]bool{53: true, 54: false} {
			pieces := fragmentsOf(t, build(t, macB, macA, podA, podB, udpPorts(1000, port), 4000), port, 1400)
			if reversed {
				for i, j := 0, len(pieces)-1; i < j; i, j = i+1, j-1 {
					pieces[i], pieces[j] = pieces[j], pieces[i]
				}
			}
			for _, f := range pieces {
				r.send("a", f)
			}
			want := 0
			if passes {
				want = len(pieces)
			}
			if got := len(r.got("b")); got != want {
				t.Errorf("reversed %v, port %d: %d fragments came out, want %d", reversed, port, got, want)
			}
		}
	}
}

// TestPolicyPing: rules with ports say nothing of ICMP, whose identifiers are no
// ports.
func TestPolicyPing(t *testing.T) {
	echo := func(id uint16) []byte {
		return build(t, macB, macA, podA, podB, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id}, 8)
	}
	r := newRig(t)
	r.enforce(ingressOnly("b", rule("a", packet.ProtoTCP, 80)))
	r.send("a", echo(80))
	r.none("a", PolicyIngress)
	r.enforce(ingressOnly("b", rule("a", 0)))
	r.send("a", echo(81))
	r.only("b")
}

// TestPolicyUnknownPod: a pod whose policies nobody has compiled yet is silent,
// and not spoken to.
func TestPolicyUnknownPod(t *testing.T) {
	r := newRig(t)
	r.tables.Policy = policy.NewCompiler("node1").Set()
	r.publish()
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 80, "syn"), 0))
	r.none("a", Starting)
	r.send("overlay", build(t, macVTEP, macPeer, remote, podB, tcpPorts(1000, 80, "syn"), 0))
	r.none("overlay", Starting)
}

// TestPolicyMulticast: who may not hear somebody does not hear his multicast either.
func TestPolicyMulticast(t *testing.T) {
	group := [6]byte{1, 0, 0x5e, 0, 0, 0xfb}
	say := func(r *rig) { r.send("a", build(t, group, macA, podA, "224.0.0.251", udpPorts(5353, 5353), 10)) }
	r := newRig(t)
	r.enforce()
	say(r)
	r.only("b")
	r.enforce(ingressOnly("b"))
	say(r)
	for name := range r.ends {
		if len(r.got(name)) > 0 {
			t.Errorf("%s heard it", name)
		}
	}
	r.enforce(egressOnly("a"))
	say(r)
	r.none("a", PolicyEgress)
}

// TestPolicyMulticastNamed: multicast that a pod may not send dies of the pod's
// own policy, whatever something else died of before, and counts there.
func TestPolicyMulticastNamed(t *testing.T) {
	r := newRig(t)
	r.enforce(egressOnly("a", rule("b", packet.ProtoTCP, 80)), ingressOnly("b"))
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 80, "syn"), 0)) // b's policy denies it
	r.none("a", PolicyIngress)
	events := r.sw.Observe(nil)
	defer events.Close()
	r.send("a", build(t, [6]byte{1, 0, 0x5e, 0, 0, 0xfb}, macA, podA, "224.0.0.251", udpPorts(5353, 5353), 10))
	if n := len(events.C); n != 1 {
		t.Fatalf("%d events, want one", n)
	}
	if e := <-events.C; e.Policy() != "NetworkPolicy x/out" {
		t.Errorf("it died of %q, not of the sender's policy", e.Policy())
	}
	if n := droppedBy(r.tables.Policy, "NetworkPolicy x/out"); n != 1 {
		t.Errorf("the sender's policy dropped %d packets, want 1", n)
	}
}

// droppedBy returns how many packets a policy dropped.
func droppedBy(s *policy.Set, name string) (n uint64) {
	for _, d := range s.Drops() {
		if d.Policy == name {
			n += d.Packets
		}
	}
	return n
}

// TestPolicyTrace: a trace names what decided, whatever that was, and counts nothing.
func TestPolicyTrace(t *testing.T) {
	r := newRig(t)
	r.enforce(ingressOnly("b", rule("a", packet.ProtoTCP, 80)))
	for port, want := range map[uint16]struct {
		reason Reason
		policy string
	}{80: {Forwarded, "NetworkPolicy x/in rule 0"}, 81: {PolicyIngress, "NetworkPolicy x/in"}} {
		e := r.sw.Trace(r.ids["a"], build(t, macB, macA, podA, podB, tcpPorts(1000, port, "syn"), 0))
		if e.Reason != want.reason || e.Policy != want.policy {
			t.Errorf("port %d: %q by %q, want %q by %q", port, e.Reason, e.Policy, want.reason, want.policy)
		}
		said := ""
		for _, s := range e.Steps {
			if s.Stage == "ingress" {
				said = s.Did
			}
		}
		if !strings.Contains(said, "x/in") {
			t.Errorf("port %d: no step names the policy: %v", port, e.Steps)
		}
	}
}

// TestPolicyTraceExempt: a trace says why a packet passes that policies have no
// say about, where they isolate the pod, and only there.
func TestPolicyTraceExempt(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		policy *cluster.NetworkPolicy
		want   []string
	}{
		{ingressOnly("a"), []string{"ingress: a pod may always talk to itself"}},
		{egressOnly("a"), []string{"egress: a pod may always talk to itself"}},
		{ingressOnly("b"), nil},
	} {
		r.enforce(tc.policy)
		e := r.sw.Trace(r.ids["a"], build(t, macA, macA, podA, podA, tcpPorts(1000, 80, "syn"), 0))
		var said []string
		for _, s := range e.Steps {
			if s.Stage == "ingress" || s.Stage == "egress" {
				said = append(said, s.Stage+": "+s.Did)
			}
		}
		if e.Reason != Forwarded || e.Policy != "" || !slices.Equal(said, tc.want) {
			t.Errorf("%q by %q, with %q; want %q", e.Reason, e.Policy, said, tc.want)
		}
	}
}

// TestObserve: who observes is told of first packets and of drops, and why.
func TestObserve(t *testing.T) {
	r := newRig(t)
	r.enforce(egressOnly("a", rule("b", packet.ProtoTCP, 80)))
	all := r.sw.Observe(nil)
	drops := r.sw.Observe(func(reason Reason) bool { return reason != Forwarded })
	for _, port := range []uint16{80, 81} {
		for range 2 {
			r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, port, "syn"), 0))
		}
	}
	var got []string
	for len(all.C) > 0 {
		e := <-all.C
		got = append(got, strings.TrimSpace(e.Port+" "+e.Out+" "+e.Came.String()+" "+e.Reason.String()+" "+e.Policy()))
	}
	want := []string{
		"a b tcp 10.244.1.2:1000 -> 10.244.1.3:80  NetworkPolicy x/out rule 0",
		"a  tcp 10.244.1.2:1000 -> 10.244.1.3:81 policy-egress NetworkPolicy x/out",
		"a  tcp 10.244.1.2:1000 -> 10.244.1.3:81 policy-egress NetworkPolicy x/out",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := len(drops.C); n != 2 {
		t.Errorf("who wants drops was told of %d events, want 2", n)
	}
	all.Close()
	drops.Close()
	r.send("a", build(t, macB, macA, podA, podB, tcpPorts(1000, 82, "syn"), 0))
	if n := len(all.C); n != 0 {
		t.Errorf("%d events after Close", n)
	}
	r.now += time.Minute
	flood := r.sw.Observe(nil)
	for i := range 2 * eventBurst {
		r.send("a", build(t, macB, macA, podA, podB, tcpPorts(uint16(2000+i), 82, "syn"), 0))
	}
	if told, lost := len(flood.C), flood.Suppressed.Load(); told != eventBurst || told+int(lost) != 2*eventBurst {
		t.Errorf("of %d events %d were told and %d suppressed", 2*eventBurst, told, lost)
	}
}
