package control_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/kube"
)

var updateGolden = flag.Bool("update", false, "write what tests got into their txtar files")

// TestScripts runs the commands of each testdata/*.txtar and compares the
// transcript with its file "want". The commands are those of world.run; their
// manifests are the archive's other files.
func TestScripts(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, a)
			var got strings.Builder
			for line := range strings.Lines(string(a.Comment)) {
				line = strings.TrimSpace(line)
				if line == "" || line[0] == '#' {
					continue
				}
				fmt.Fprintf(&got, "> %s\n%s", line, w.run(strings.Fields(line)))
			}
			if err := w.control.Close(); err != nil {
				t.Error(err)
			}
			for i := range a.Files {
				if a.Files[i].Name != "want" {
					continue
				}
				if *updateGolden {
					a.Files[i].Data = []byte(got.String())
					if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if d := cmp.Diff(string(a.Files[i].Data), got.String()); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
				return
			}
			t.Error("the archive has no file named want")
		})
	}
}

// world is a cluster without processes: pods run when the script says so.
type world struct {
	t       *testing.T
	files   map[string][]byte
	cfg     control.Config
	now     time.Time
	uids    int
	ips     map[netip.Prefix]netip.Addr
	store   *cluster.Store
	control *control.Controller
}

func newWorld(t *testing.T, a *txtar.Archive) *world {
	w := &world{t: t, files: map[string][]byte{}, ips: map[netip.Prefix]netip.Addr{},
		now: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, f := range a.Files {
		w.files[f.Name] = f.Data
	}
	w.cfg = control.Default()
	w.cfg.Dir = t.TempDir()
	w.cfg.Clock = func() time.Time { return w.now }
	w.cfg.UID = func() string { w.uids++; return fmt.Sprint("uid-", w.uids) }
	w.start()
	return w
}

func (w *world) start() {
	w.store = cluster.NewStore()
	var err error
	if w.control, err = control.New(w.store, w.cfg); err != nil {
		w.t.Fatal(err)
	}
}

// run does one command and returns what it says.
func (w *world) run(args []string) string {
	var out strings.Builder
	say := func(results []control.Result, err error) {
		for _, r := range results {
			fmt.Fprintln(&out, r)
		}
		if err != nil {
			fmt.Fprintln(&out, "error:", strings.ReplaceAll(err.Error(), w.cfg.Dir, "DIR"))
		}
	}
	rest := args[1:]
	switch args[0] {
	case "nodes": // N: default nodes from here on
		w.cfg.Nodes, _ = strconv.Atoi(rest[0])
		w.restart()
	case "apply": // FILE [force] [prune]
		say(w.control.Apply(w.load(rest[0]), control.ApplyOptions{Replace: slices.Contains(rest, "force"), Prune: slices.Contains(rest, "prune")}))
	case "isolate": // FILE, in which policies are wrong
		_, _, err := kube.Parse(rest[0], w.files[rest[0]])
		say(w.control.Isolate(kube.StandIns(err)))
	case "static": // FILE
		state, err := control.Static(w.cfg, w.load(rest[0]))
		if err != nil {
			say(nil, err)
			break
		}
		kinds := []string{"nodes", "pods", "deployments", "namespaces"}
		if state.Services.Len()+state.EndpointSlices.Len() > 0 {
			kinds = append(kinds, "services", "slices")
		}
		if state.NetworkPolicies.Len()+state.ClusterNetworkPolicies.Len() > 0 {
			kinds = append(kinds, "policies")
		}
		out.WriteString(tables(state, kinds, w.now))
	case "delete": // -f FILE | KIND NAME
		if rest[0] == "-f" {
			say(w.control.Delete(w.load(rest[1]).Refs()))
			break
		}
		kind, _ := cluster.ParseKind(rest[0])
		ns, name, ok := strings.Cut(rest[1], "/")
		if !ok {
			ns, name = "", rest[1]
		}
		say(w.control.Delete([]cluster.Ref{{Kind: kind, Key: cluster.Key{Namespace: ns, Name: name}}}))
		if kind == cluster.KindNode { // its process is gone, too
			w.local(func(tx *cluster.Txn) { tx.Delete(cluster.KindNode.Ref(cluster.Key{Name: name})) })
		}
	case "add-node":
		say(nil, w.control.AddNode(rest[0]))
	case "ready", "down": // NODE...
		for _, name := range rest {
			w.local(func(tx *cluster.Txn) {
				tx.Put(&cluster.Node{Meta: cluster.Meta{Name: name}, Ready: args[0] == "ready"})
			})
		}
		say(nil, w.control.Reconcile())
	case "kubelet": // [N]: starts and ends N pods, or all there are, until nothing is to be done
		n := 1 << 20
		if len(rest) > 0 {
			n, _ = strconv.Atoi(rest[0])
		}
		for n > 0 && w.kubelet(&out) {
			n--
		}
	case "fail": // POD: it is running, but not ready
		say(nil, w.report(rest[0], func(p *cluster.Pod) { p.Ready = false }))
	case "unfail": // POD: it is ready again
		say(nil, w.report(rest[0], func(p *cluster.Pod) { p.Ready = true }))
	case "exit": // POD: it ended
		say(nil, w.report(rest[0], func(p *cluster.Pod) { p.Phase, p.Ready = cluster.PodSucceeded, false }))
	case "sleep":
		d, _ := time.ParseDuration(rest[0])
		w.now = w.now.Add(d)
		say(nil, w.control.Reconcile())
	case "restart":
		w.restart()
		for _, p := range w.control.Problems() {
			fmt.Fprintln(&out, strings.ReplaceAll(p, w.cfg.Dir, "DIR"))
		}
	case "get":
		out.WriteString(tables(w.store.State(), rest, w.now))
	case "events":
		out.WriteString(eventTable(w.control.Events().List().Events, w.now))
	case "dns": // on | off: from here on
		w.cfg.DNS = rest[0] == "on"
		w.restart()
	case "ranges": // SERVICES BALANCERS PORTS: from here on
		w.cfg.ServiceCIDRs, w.cfg.LoadBalancerCIDRs = []netip.Prefix{netip.MustParsePrefix(rest[0])}, []netip.Prefix{netip.MustParsePrefix(rest[1])}
		fmt.Sscanf(rest[2], "%d-%d", &w.cfg.NodePorts.First, &w.cfg.NodePorts.Last)
		w.restart()
	default:
		w.t.Fatalf("unknown command %q", args[0])
	}
	return out.String()
}

func (w *world) restart() {
	if err := w.control.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

func (w *world) load(file string) *cluster.Objects {
	data, ok := w.files[file]
	if !ok {
		w.t.Fatalf("no file %s", file)
	}
	o, _, err := kube.Parse(file, data)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) local(fn func(*cluster.Txn)) {
	if err := w.store.Update(cluster.Local, func(tx *cluster.Txn) error { fn(tx); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) report(name string, change func(*cluster.Pod)) error {
	ns, name, _ := strings.Cut(name, "/")
	for p := range w.store.State().Pods.In(ns) {
		if strings.HasPrefix(p.Name, name) {
			seen := *p
			seen.ReadyAt = w.now
			change(&seen)
			w.local(func(tx *cluster.Txn) { tx.Put(&seen) })
			return w.control.Reconcile()
		}
	}
	w.t.Fatalf("no pod %s/%s", ns, name)
	return nil
}

// kubelet does the next thing a node has to do: end a pod that is to end, or
// else start one that has a ready node.
func (w *world) kubelet(out *strings.Builder) bool {
	state := w.store.State()
	for p := range state.Pods.All() {
		if !p.Deleted.IsZero() {
			w.local(func(tx *cluster.Txn) { tx.Delete(cluster.RefOf(p)) })
			if err := w.control.PodGone(p.Key(), p.UID); err != nil {
				w.t.Fatal(err)
			}
			fmt.Fprintf(out, "%s ended\n", p.Key())
			return true
		}
	}
	for p := range state.Pods.All() {
		n := state.Node(p.Node)
		if n == nil || !n.Ready || p.Phase != cluster.PodPending {
			continue
		}
		seen := &cluster.Pod{Meta: cluster.Meta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			Node: p.Node, Phase: cluster.PodRunning, Ready: true, ReadyAt: w.now, Started: w.now}
		for _, r := range n.PodCIDRs {
			ip := w.ips[r]
			if !ip.IsValid() {
				ip = r.Addr().Next()
			}
			w.ips[r] = ip.Next()
			seen.IPs = append(seen.IPs, ip.Next())
		}
		w.local(func(tx *cluster.Txn) { tx.Put(seen) })
		if err := w.control.Reconcile(); err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintf(out, "%s runs\n", p.Key())
		return true
	}
	return false
}

// eventTable prints events, those that were seen last at the end.
func eventTable(events []*cluster.Event, now time.Time) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tFIRST\tLAST\tCOUNT\tTYPE\tREASON\tOBJECT\tMESSAGE")
	for _, e := range events {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", e.Namespace, now.Sub(e.First), now.Sub(e.Last), e.Count, e.Type(), e.Reason, e.Object, e.Message)
	}
	t.Flush()
	return b.String()
}

// tables prints objects as kubectl does.
func tables(s *cluster.State, what []string, now time.Time) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	none := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	for _, kind := range what {
		switch kind {
		case "nodes":
			fmt.Fprintln(t, "NODE\tREADY\tADDRESSES\tPOD RANGES")
			for n := range s.Nodes.All() {
				fmt.Fprintf(t, "%s\t%v\t%s\t%s\n", n.Name, n.Ready, joined(n.Addresses), joined(n.PodCIDRs))
			}
		case "pods":
			fmt.Fprintln(t, "NAMESPACE\tPOD\tREADY\tSTATUS\tNODE\tIPS\tOWNER\tREASON")
			for p := range s.Pods.All() {
				status := string(p.Phase)
				if !p.Deleted.IsZero() {
					status = "Terminating"
				}
				fmt.Fprintf(t, "%s\t%s\t%v\t%s\t%s\t%s\t%s\t%s\n", p.Namespace, p.Name, p.Ready, status, none(p.Node), none(joined(p.IPs)), none(p.Owner.Name), none(p.Reason))
			}
		case "deployments":
			fmt.Fprintln(t, "NAMESPACE\tDEPLOYMENT\tREADY\tUP-TO-DATE\tAVAILABLE\tTOTAL")
			for d := range s.Deployments.All() {
				fmt.Fprintf(t, "%s\t%s\t%d/%d\t%d\t%d\t%d\n", d.Namespace, d.Name, d.ReadyReplicas, d.Replicas, d.UpdatedReplicas, d.AvailableReplicas, d.CurrentReplicas)
			}
		case "namespaces":
			fmt.Fprintln(t, "NAMESPACE\tSTATUS")
			for n := range s.Namespaces.All() {
				status := "Active"
				if !n.Deleted.IsZero() {
					status = "Terminating"
				}
				if n.IsolatesIngress {
					status += ", isolates ingress"
				}
				fmt.Fprintf(t, "%s\t%s\n", n.Name, status)
			}
		case "policies":
			fmt.Fprintln(t, "NAMESPACE\tPOLICY\tUID\tGENERATION\tAGE\tISOLATES\tINVALID")
			isolates := func(ingress, egress bool) string {
				return map[[2]bool]string{{true, false}: "ingress", {false, true}: "egress", {true, true}: "both"}[[2]bool{ingress, egress}]
			}
			for v := range s.NetworkPolicies.All() {
				fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", v.Namespace, v.Name, v.UID, v.Generation, now.Sub(v.Created), none(isolates(v.IsolatesIngress, v.IsolatesEgress)), none(v.Invalid))
			}
			for v := range s.ClusterNetworkPolicies.All() {
				fmt.Fprintf(t, "-\t%s\t%s\t%d\t%s\t%s %d\t%s\n", v.Name, v.UID, v.Generation, now.Sub(v.Created), v.Tier, v.Priority, none(v.Invalid))
			}
		case "services":
			fmt.Fprintln(t, "NAMESPACE\tSERVICE\tTYPE\tCLUSTER-IPS\tLOAD BALANCER\tPORTS\tCONDITIONS")
			for v := range s.Services.All() {
				var ports, balancer, conditions []string
				for _, p := range v.Ports {
					ports = append(ports, fmt.Sprintf("%d:%d/%d", p.Port, p.NodePort, p.Protocol))
				}
				for _, g := range v.Ingress {
					balancer = append(balancer, g.IP.String()+g.Hostname)
				}
				for _, c := range v.Conditions {
					conditions = append(conditions, c.Type+" "+c.Reason+" "+c.Message)
				}
				ips := joined(v.ClusterIPs)
				if v.Headless {
					ips = "None"
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Namespace, v.Name, v.Type, none(ips), none(strings.Join(balancer, ",")),
					none(strings.Join(ports, ",")), none(strings.Join(conditions, "; ")))
			}
		case "slices":
			fmt.Fprintln(t, "NAMESPACE\tSLICE\tSERVICE\tPORTS\tENDPOINTS")
			for v := range s.EndpointSlices.All() {
				var list []string
				for _, e := range v.Endpoints {
					list = append(list, endpointText(&e))
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Namespace, v.Name, v.Service().Name, none(portText(v.Ports)), none(strings.Join(list, " ")))
			}
		case "endpoints":
			fmt.Fprintln(t, "NAMESPACE\tENDPOINTS\tSUBSETS")
			for _, e := range control.AllEndpoints(s) {
				var list []string
				for _, sub := range e.Subsets {
					for _, p := range sub.Ready {
						list = append(list, fmt.Sprintf("%s:%s", p.Addresses[0], portText(sub.Ports)))
					}
					for _, p := range sub.NotReady {
						list = append(list, fmt.Sprintf("(%s:%s)", p.Addresses[0], portText(sub.Ports)))
					}
				}
				fmt.Fprintf(t, "%s\t%s\t%s\n", e.Namespace, e.Name, none(strings.Join(list, " ")))
			}
		case "versions":
			fmt.Fprintln(t, "POD\tUID\tGENERATION\tAGE")
			for p := range s.Pods.All() {
				fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", p.Name, p.UID, p.Generation, now.Sub(p.Created))
			}
		}
		t.Flush()
	}
	var trimmed strings.Builder
	for line := range strings.Lines(b.String()) {
		trimmed.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return trimmed.String()
}

func portText(ports []cluster.EndpointPort) string {
	var list []string
	for _, p := range ports {
		list = append(list, strconv.Itoa(int(p.Port)))
	}
	return strings.Join(list, ",")
}

// endpointText is an address and what is not as usual.
func endpointText(e *cluster.Endpoint) string {
	s := e.Addresses[0].String()
	if e.Node != "" {
		s += "@" + e.Node
	}
	for _, c := range []struct {
		name string
		is   bool
	}{{"unready", !e.Ready}, {"unserving", !e.Serving}, {"terminating", e.Terminating}} {
		if c.is {
			s += "," + c.name
		}
	}
	if len(e.ForZones)+len(e.ForNodes) > 0 {
		s += fmt.Sprintf(",for=%s/%s", strings.Join(e.ForZones, "+"), strings.Join(e.ForNodes, "+"))
	}
	return s
}

func joined[T fmt.Stringer](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, v.String())
	}
	return strings.Join(s, ",")
}
