package bench

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"vswitch/nat"
	"vswitch/vswitch"
	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// flowsEnv makes the test binary a switch with a million tracked flows instead.
const flowsEnv = "VSWITCH_BENCH_FLOWS"

const (
	trackedFlows = 1_000_000
	// flowPorts is how many ports the service has: a client has 65536 of its own.
	flowPorts = trackedFlows/65536 + 1
)

// flowCounts is what such a process reports.
type flowCounts struct {
	Conns              int
	Answers, Stray     int
	Before, TrackedMiB float64
}

// client is a port that sends one datagram for each flow to a service, and
// counts what it hears.
type client struct {
	frame          []byte
	left           int
	answers, stray int
	ring           func()
}

func (c *client) Read(b *packet.Batch, limit int) (int, error) {
	n := min(limit, c.left, packet.BatchSize)
	for range n {
		c.left--
		binary.BigEndian.PutUint16(c.frame[34:], uint16(c.left))
		binary.BigEndian.PutUint16(c.frame[36:], uint16(80+c.left>>16))
		b.Append(c.frame)
	}
	return n, nil
}

func (c *client) Write(b *packet.Batch, idx []uint16) (int, error) {
	for _, i := range idx {
		f := b.Frame(&b.Packets[i])
		if [4]byte(f[26:30]) == serviceAt.Addr().As4() {
			c.answers++
		} else {
			c.stray++
		}
	}
	return len(idx), nil
}

func (c *client) MTU() int           { return 1450 }
func (c *client) Close() error       { return nil }
func (c *client) Notify(ring func()) { c.ring = ring }

// server is a port that answers every datagram.
type server struct {
	client
	waiting [][]byte
}

func (s *server) Read(b *packet.Batch, limit int) (int, error) {
	n := min(limit, len(s.waiting), packet.BatchSize)
	for _, f := range s.waiting[:n] {
		b.Append(f)
	}
	s.waiting = s.waiting[n:]
	return n, nil
}

func (s *server) Write(b *packet.Batch, idx []uint16) (int, error) {
	for _, i := range idx {
		f := b.AppendTo(nil, &b.Packets[i])
		swap(f[0:6], f[6:12])
		swap(f[26:30], f[30:34])
		swap(f[34:36], f[36:38])
		s.waiting = append(s.waiting, f)
	}
	s.ring()
	return len(idx), nil
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// datagram is 64 bytes of UDP from a to an address, without checksums.
func datagram(from, to netip.Addr, gateway [6]byte) []byte {
	mac := agent.MACOf(from)
	f := make([]byte, 64)
	copy(f[0:], gateway[:])
	copy(f[6:], mac[:])
	f[12], f[14], f[22], f[23] = 0x08, 0x45, 64, packet.ProtoUDP
	binary.BigEndian.PutUint16(f[16:], 50)
	binary.BigEndian.PutUint16(f[38:], 30)
	src, dst := from.As4(), to.As4()
	copy(f[26:], src[:])
	copy(f[30:], dst[:])
	return f
}

// manyFlows forwards a datagram and its answer for each of a million flows of a
// client to a service, and reports the process's memory.
func manyFlows() error {
	conns, err := nat.Open(nat.Config{Max: trackedFlows})
	if err != nil {
		return err
	}
	// The cache holds both directions of all.
	sw, err := vswitch.New(vswitch.Config{Inline: true, Conns: conns, MaxFlows: 2 * trackedFlows})
	if err != nil {
		return err
	}
	cidr := netip.MustParsePrefix("10.244.1.0/24")
	gateway := agent.MACOf(agent.Gateway(cidr))
	c := &client{frame: datagram(addrA, serviceAt.Addr(), gateway), left: trackedFlows}
	s := &server{}
	var compiler agent.Compiler
	compiler.SetSelf(agent.Self{Name: "node1", GatewayMAC: gateway, PodCIDRs: []netip.Prefix{cidr}})
	for _, p := range []struct {
		name   string
		addr   netip.Addr
		attach func() (uint16, error)
	}{
		{"bench/a", addrA, func() (uint16, error) { return sw.Attach("a", c) }},
		{"bench/b", addrB, func() (uint16, error) { return sw.Attach("b", s) }},
	} {
		id, err := p.attach()
		if err != nil {
			return err
		}
		compiler.SetPod(agent.LocalPod{Port: id, Name: p.name, MAC: agent.MACOf(p.addr), IPs: []netip.Addr{p.addr}, MTU: 1450})
	}
	services := agent.NewServices(agent.ServiceConfig{}, "node1", "")
	services.Apply(flowService())
	compiler.SetServices(services)
	sw.Publish(compiler.Publish())

	r := flowCounts{}
	if r.Before, err = resident(os.Getpid()); err != nil {
		return err
	}
	c.ring()
	for sw.Step() > 0 {
		if c.left > 0 {
			c.ring()
		}
	}
	r.Conns, r.Answers, r.Stray = conns.Len(), c.answers, c.stray
	if r.TrackedMiB, err = resident(os.Getpid()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// flowService is a service with as many ports as a million flows need.
func flowService() *cluster.Changes {
	m := cluster.Meta{Namespace: "bench", Name: "many"}
	svc := &cluster.Service{Meta: m, ClusterIPs: []netip.Addr{serviceAt.Addr()}}
	m.Labels = map[string]string{cluster.LabelServiceName: m.Name}
	slice := &cluster.EndpointSlice{Meta: m, Family: cluster.IPv4,
		Endpoints: []cluster.Endpoint{{Addresses: []netip.Addr{addrB}, Ready: true, Serving: true}}}
	for i := range flowPorts {
		name := fmt.Sprint("p", i)
		svc.Ports = append(svc.Ports, cluster.ServicePort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(80 + i)})
		slice.Ports = append(slice.Ports, cluster.EndpointPort{Name: name, Protocol: packet.ProtoUDP, Port: uint16(8000 + i)})
	}
	store := cluster.NewStore()
	w := store.Watch()
	defer w.Close()
	_ = store.Update(cluster.Desired, func(tx *cluster.Txn) error { // fails for no reason but fn's
		tx.Put(svc)
		tx.Put(slice)
		return nil
	})
	c := w.Next()
	return &c
}

// BenchmarkTrackedFlowsMemory: resident memory of a switch that tracks a million
// flows to a service, and has the flows of both their directions in its cache.
func BenchmarkTrackedFlowsMemory(b *testing.B) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), flowsEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(b, err)
	var r flowCounts
	must(b, json.Unmarshal(out, &r))
	if r.Conns != trackedFlows || r.Answers != trackedFlows || r.Stray != 0 {
		b.Fatalf("%d connections, %d answers and %d stray packets of %d flows", r.Conns, r.Answers, r.Stray, trackedFlows)
	}
	b.ReportMetric(r.TrackedMiB, "RSS-MiB")
	b.ReportMetric(r.Before, "RSS-MiB-before")
	b.ReportMetric(0, "ns/op")
}
