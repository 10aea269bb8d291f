package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/trace/servicetest"
)

const (
	// tableWithin is how long a row may take to show all that it says. What it
	// must not show fails it at once.
	tableWithin = time.Minute
	// answerLimit and silenceLimit are how long a socket waits, where an answer is
	// due, and where none is, or perhaps none.
	answerLimit, silenceLimit = 2 * time.Second, 400 * time.Millisecond
)

// labPlaces are the places of the tables that a lab has elsewhere: a client
// outside has addresses of its own, and there is another one beside it. What a
// balancer may give is of its pool.
var labPlaces = servicetest.Places{
	"out": {"203.0.113.10", "2001:db8:113::10"}, "out2": {"203.0.113.77", "2001:db8:113::77"},
	"outRange": {"203.0.113.8/29", "2001:db8:113::/122"},
	"ext":      {"198.51.100.10", "2001:db8:3::10"}, "ext2": {"192.0.2.20", "2001:db8:2::20"},
	// One more client of outRange, for which no kernel answers.
	"outBypass":     {"203.0.113.14", "2001:db8:113::e"},
	"node1-gateway": {"10.244.1.1", "fd00:10:244:1::1"}, "node2-gateway": {"10.244.2.1", "fd00:10:244:2::1"}, "node3-gateway": {"10.244.3.1", "fd00:10:244:3::1"},
}

// tableRun is the tables that one cluster is for.
type tableRun struct {
	name       string
	masquerade bool
	options    servicetest.Options
}

// TestServiceTables runs the truth tables of services with the sockets of pods,
// nodes and a client outside, as far as those can do what a row says. A row is
// asked until every endpoint that it names has answered, and no other has.
func TestServiceTables(t *testing.T) {
	t.Setenv(realNodes, "1")
	runtimeDir(t)
	files := servicetest.Read(t, tableDir, servicetest.IPv4, servicetest.Default().With(labPlaces))
	var runs []*tableRun
	for _, masquerade := range []bool{true, false} {
		mode := map[bool]string{true: agent.MasqueradeClient, false: agent.PreserveClient}[masquerade]
		runs = append(runs, &tableRun{mode, masquerade, servicetest.Options{}})
		if testing.Short() {
			break
		}
		for _, f := range files {
			if r := (&tableRun{f.Name + "-" + mode, masquerade, f.Options}); f.Options.MasqueradeAll || len(f.Options.NodePortAddresses) > 0 {
				runs = append(runs, r)
			}
		}
	}
	for i, r := range runs {
		// They wait most of the time, each for itself.
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			r.run(t, fmt.Sprintf("tables%d", i+1))
		})
	}
}

const tableDir = "../trace/testdata/services"

func (r *tableRun) run(t *testing.T, name string) {
	f := newTableLab(t, name, r)
	for _, family := range servicetest.Families {
		for _, table := range servicetest.Read(t, tableDir, family, f.places) {
			if !sameOptions(table.Options, r.options) || testing.Short() && !slices.Contains([]string{"cluster", "external_local", "ports"}, table.Name) {
				continue
			}
			t.Run(table.Name+"/"+family.String(), func(t *testing.T) { f.table(t, &table) })
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t.Logf("%d rows asked", f.asked)
	for _, why := range sortedKeys(f.skipped) {
		t.Logf("%d rows left out: %s", f.skipped[why], why)
	}
}

// sameOptions compares what flags there are, in whatever family.
func sameOptions(a, b servicetest.Options) bool {
	return a.MasqueradeAll == b.MasqueradeAll && (len(a.NodePortAddresses) > 0) == (len(b.NodePortAddresses) > 0)
}

func sortedKeys[V any](m map[string]V) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// tableLab is a cluster with the places of the tables.
type tableLab struct {
	client     *Client
	masquerade bool
	base       string // manifests of nodes and pods
	places     servicetest.Places
	sockets    map[string]string              // of nodes' APIs
	outside    map[string]agent.OutsideStatus // by node

	mu      sync.Mutex // guards what follows
	port    int        // the last one that was given to a socket
	asked   int
	skipped map[string]int    // rows, by why they are left out
	entered map[passed]string // the node where a client's outside packet came in
	// bypassed is what nodes had to do with outBypass.
	bypassed []agent.Sight
}

// passed is a packet.
type passed struct {
	proto    string
	src, dst netip.AddrPort
}

func newTableLab(t *testing.T, name string, r *tableRun) *tableLab {
	f := &tableLab{masquerade: r.masquerade, base: servicetest.Nodes, places: servicetest.Default().With(labPlaces),
		sockets: map[string]string{}, outside: map[string]agent.OutsideStatus{}, skipped: map[string]int{}, entered: map[passed]string{}}
	server := func(name, node string, hostNetwork bool, at ...string) {
		command, err := json.Marshal(append([]string{thisProgram(t), "test-name", name}, at...))
		if err != nil {
			t.Fatal(err)
		}
		f.base += fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop}\nspec: {nodeName: %s, hostNetwork: %v, terminationGracePeriodSeconds: 1, containers: [{name: main, command: %s}]}\n---\n",
			name, node, hostNetwork, command)
	}
	for _, pod := range sortedKeys(servicetest.Pods) {
		server(pod, servicetest.Pods[pod], false)
	}
	for _, node := range []string{"node1", "node2", "node3"} {
		at := f.places[node]
		server(node, node, true, at[:]...)
	}
	o := options()
	o.Name, o.Nodes, o.Objects = name, 0, manifests(t, f.base)
	o.LoadBalancerCIDRs = servicetest.BalancerCIDRs
	s := &o.Config.Services
	s.CIDRs, s.MasqueradeAll = servicetest.ServiceCIDRs, r.options.MasqueradeAll
	if s.ExternalClient = agent.PreserveClient; r.masquerade {
		s.ExternalClient = agent.MasqueradeClient
	}
	if len(r.options.NodePortAddresses) > 0 {
		for _, a := range f.places["extraRange"] {
			s.NodePortAddresses = append(s.NodePortAddresses, netip.MustParsePrefix(a))
		}
	}
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	f.client = c
	t.Cleanup(c.Close)
	for _, a := range labPlaces["out2"] {
		bits := map[bool]string{true: "32", false: "128"}[netip.MustParseAddr(a).Is4()]
		if said, err := execIn(c, ExecRequest{Outside: true, Command: []string{"ip", "addr", "add", a + "/" + bits, "dev", "eth0", "nodad"}}, ""); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	pods, err := c.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if len(p.IPs) != 2 || !p.Ready {
			t.Fatalf("pod %s has %v, ready %v", p.Name, p.IPs, p.Ready)
		}
		if p.HostNetwork {
			continue // has the address of its place
		}
		f.places[p.Name] = [2]string{p.IPs[0].String(), p.IPs[1].String()}
	}
	f.watchOutside(t)
	return f
}

// watchOutside notes where a client's outside packets come in.
func (f *tableLab) watchOutside(t *testing.T) {
	nodes, err := f.client.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for _, n := range nodes {
		f.sockets[n.Name] = n.Socket
		if f.outside[n.Name], err = f.outsidePort(ctx, &n); err != nil {
			t.Fatalf("node %s: %v", n.Name, err)
		}
		_, err := agent.NewClient(n.Socket).Sights(ctx, "outside", func(s agent.Sight) {
			if s.Out {
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.entered[passed{s.Proto, s.Source, s.Destination}] = n.Name
		})
		if err != nil {
			t.Fatalf("node %s: %v", n.Name, err)
		}
	}
}

// execIn runs a command and returns what it wrote. It may be called by any
// goroutine.
func execIn(c *Client, r ExecRequest, stdin string) (string, error) {
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	defer inR.Close()
	defer outR.Close()
	go func() {
		io.WriteString(inW, stdin)
		inW.Close()
	}()
	out := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(outR)
		out <- string(text)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 2*tableWithin)
	defer cancel()
	code, err := c.Exec(ctx, r, inR, outW, outW)
	outW.Close()
	said := <-out
	if err == nil && code != 0 {
		err = fmt.Errorf("%s in %s: exit code %d", strings.Join(r.Command, " "), r.where(), code)
	}
	return said, err
}

// table applies a table's objects, and nothing else, and asks its rows, those of
// each sender by one process.
func (f *tableLab) table(t *testing.T, table *servicetest.Table) {
	o := manifests(t, f.base+table.Objects)
	// The other family's services have the same names, and cannot become these.
	for _, o := range []*cluster.Objects{manifests(t, f.base), o} {
		if _, err := f.client.ApplyWith(t.Context(), o, control.ApplyOptions{Prune: true}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; ; i++ {
		if err := f.client.WaitInForce(t.Context()); err == nil {
			break
		} else if i == 5 || !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
	}
	senders := map[string][]*question{}
	for i := range table.Rows {
		q := &question{lab: f, row: &table.Rows[i], seen: map[netip.AddrPort]bool{}}
		if why := q.leftOut(); why != "" {
			f.leave(why)
			continue
		}
		q.sticky = slices.ContainsFunc(o.Services, func(v *cluster.Service) bool { return v.Affinity > 0 && hasAddress(v, q.row.Target.Addr()) })
		q.checked = q.spread() && slices.ContainsFunc(o.Services, func(v *cluster.Service) bool { return balanced(v, q.row.Target.Addr()) })
		senders[q.row.From] = append(senders[q.row.From], q)
	}
	var wg sync.WaitGroup
	for from, list := range senders {
		wg.Go(func() {
			for _, problem := range f.ask(from, list) {
				t.Error(problem)
			}
		})
	}
	wg.Wait()
}

// balanced reports whether the balancer asks nodes for the health of a service
// before it sends them what is for an address.
func balanced(v *cluster.Service, a netip.Addr) bool {
	return v.ExternalLocal && slices.ContainsFunc(v.Ingress, func(g cluster.LBIngress) bool { return g.IP == a })
}

func hasAddress(v *cluster.Service, a netip.Addr) bool {
	return slices.Contains(v.ClusterIPs, a) || slices.Contains(v.ExternalIPs, a) ||
		slices.ContainsFunc(v.Ingress, func(g cluster.LBIngress) bool { return g.IP == a })
}

// ports returns the first of n ports that no socket had yet, or long ago.
func (f *tableLab) ports(n int) uint16 {
	const first, last = 10000, 60000
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.port < first || f.port+n > last {
		f.port = first
	}
	f.port += n
	return uint16(f.port - n)
}

// leave counts a row that is left out.
func (f *tableLab) leave(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skipped[why]++
}

// ask has a sender ask until all questions are answered, and returns what is
// wrong.
func (f *tableLab) ask(from string, list []*question) (problems []string) {
	f.mu.Lock()
	f.asked += len(list)
	f.mu.Unlock()
	where := ExecRequest{Namespace: "shop", Pod: from, Command: []string{self, "test-ask"}}
	if strings.HasPrefix(from, "out") {
		where = ExecRequest{Outside: true, Command: where.Command}
	} else if strings.HasPrefix(from, "node") {
		where = ExecRequest{Node: from, Command: where.Command}
	}
	var bypassed []*question
	for end := time.Now().Add(tableWithin); len(list) > 0; {
		var asks []ask
		for i, q := range list {
			asks = append(asks, q.ask(i))
		}
		in, err := json.Marshal(asks)
		if err != nil {
			return append(problems, err.Error())
		}
		said, err := execIn(f.client, where, string(in))
		var attempts []attempt
		if err == nil {
			err = json.Unmarshal([]byte(said), &attempts)
		}
		if err != nil {
			return append(problems, fmt.Sprintf("%s: %v: %s", from, err, said))
		}
		late := time.Now().After(end)
		var rest []*question
		for i, q := range list {
			problem, done := q.judge(slices.DeleteFunc(slices.Clone(attempts), func(a attempt) bool { return a.Question != i }))
			if !done && problem == "" && late {
				problem = fmt.Sprintf("in %s, that was not seen; answers are from %v, last: %+v", tableWithin, q.seen, q.last)
			}
			switch {
			case problem != "":
				problems = append(problems, q.row.Text+": "+problem)
			case q.bypasses() && (done || q.unsent()):
				bypassed = append(bypassed, q)
			case !done:
				rest = append(rest, q)
			}
		}
		list = rest
	}
	return append(problems, f.bypass(bypassed)...)
}
