package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

// TestPodStatus has the words of kubectl get pods.
func TestPodStatus(t *testing.T) {
	at := time.Unix(1, 0)
	running := cluster.ContainerStatus{Running: true, Ready: true, Started: at}
	waiting := cluster.ContainerStatus{}
	done := cluster.ContainerStatus{Started: at, Finished: at, Reason: "Completed"}
	failed := cluster.ContainerStatus{Started: at, Finished: at, ExitCode: 1, Reason: "Error"}
	crashing := cluster.ContainerStatus{Started: at, Finished: at, ExitCode: 1, Reason: "CrashLoopBackOff"}
	for _, c := range []struct {
		name          string
		inits         []cluster.Container
		statuses      []cluster.ContainerStatus
		phase         cluster.PodPhase
		deleted       time.Time
		status, ready string
	}{
		{"new", nil, nil, "", time.Time{}, "Pending", "0/2"},
		{"pending", nil, nil, cluster.PodPending, time.Time{}, "Pending", "0/2"},
		{"running", nil, []cluster.ContainerStatus{running, running}, cluster.PodRunning, time.Time{}, "Running", "2/2"},
		{"one crashes", nil, []cluster.ContainerStatus{running, crashing}, cluster.PodRunning, time.Time{}, "CrashLoopBackOff", "1/2"},
		{"done", nil, []cluster.ContainerStatus{done, done}, cluster.PodSucceeded, time.Time{}, "Completed", "0/2"},
		{"failed", nil, []cluster.ContainerStatus{failed, failed}, cluster.PodFailed, time.Time{}, "Error", "0/2"},
		{"leaving", nil, []cluster.ContainerStatus{running, running}, cluster.PodRunning, at, "Terminating", "2/2"},
		{"first init", make([]cluster.Container, 2), []cluster.ContainerStatus{running, waiting, waiting, waiting}, cluster.PodPending, time.Time{}, "Init:0/2", "0/2"},
		{"second init", make([]cluster.Container, 2), []cluster.ContainerStatus{done, waiting, waiting, waiting}, cluster.PodPending, time.Time{}, "Init:1/2", "0/2"},
		{"init crashes", make([]cluster.Container, 1), []cluster.ContainerStatus{crashing, waiting, waiting}, cluster.PodPending, time.Time{}, "Init:CrashLoopBackOff", "0/2"},
		{"init is over", make([]cluster.Container, 1), []cluster.ContainerStatus{done, running, running}, cluster.PodRunning, time.Time{}, "Running", "2/2"},
		{"sidecar", []cluster.Container{{Sidecar: true}}, []cluster.ContainerStatus{running, running, running}, cluster.PodRunning, time.Time{}, "Running", "3/3"},
	} {
		p := &cluster.Pod{Meta: cluster.Meta{Deleted: c.deleted}, InitContainers: c.inits, Containers: make([]cluster.Container, 2),
			Statuses: c.statuses, Phase: c.phase}
		if status, ready := podStatus(p), podReady(p); status != c.status || ready != c.ready {
			t.Errorf("%s: %s, %s ready, want %s, %s", c.name, status, ready, c.status, c.ready)
		}
	}
}

// TestChanges: what time alone changes is no event.
func TestChanges(t *testing.T) {
	flow := func(source string, packets uint64, idle uint32) row {
		f := agent.FlowStatus{Packets: [2]uint64{packets}, Idle: idle}
		steady := f
		steady.Idle = 0
		return tableRow("node1", source, f, steady, nil)
	}
	var got []string
	var before []row
	for _, now := range [][]row{
		{flow("a", 1, 0), flow("b", 1, 0)},
		{flow("a", 1, 1), flow("b", 2, 0)},
		{flow("c", 1, 0), flow("b", 2, 1)},
		{},
	} {
		var events []string
		for _, e := range changes(before, now) {
			events = append(events, e.what+" "+e.row.key)
		}
		got = append(got, fmt.Sprint(events))
		before = now
	}
	want := []string{"[ADDED node1 a ADDED node1 b]", "[MODIFIED node1 b]", "[ADDED node1 c DELETED node1 a]", "[DELETED node1 b DELETED node1 c]"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestEntriesNameTheirNode(t *testing.T) {
	data, err := json.Marshal(onNode[agent.Neighbor]{"node1", agent.Neighbor{MAC: "x", Kind: "pod"}})
	if want := `{"node":"node1","ip":"","mac":"x","kind":"pod","to":""}`; err != nil || string(data) != want {
		t.Errorf("%s, %v, want %s", data, err, want)
	}
}

// TestTable: columns stay aligned from one print to the next, and grow.
func TestTable(t *testing.T) {
	tab := table{header: []string{"NAME", "WHY"}}
	var out bytes.Buffer
	for _, rows := range [][][]string{nil, {{"a", "ünïcode"}, {"b", ""}}, {{"longer-name", "x"}}, {{"c", "y"}}} {
		tab.rows = slices.Clone(rows)
		tab.print(&out)
	}
	want := "NAME   WHY\na      ünïcode\nb      <none>\nlonger-name   x\nc             y\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestSummaryTellsWhatChanged(t *testing.T) {
	before := summary{"node node1": "is Ready", "pod shop/a": "is Running, 1/1 ready", "pod shop/b": "is Running, 1/1 ready"}
	now := summary{"node node1": "is Ready", "pod shop/a": "is CrashLoopBackOff, 0/1 ready: it broke", "pod shop/c": "is Pending, 0/1 ready"}
	want := []string{"pod shop/a is CrashLoopBackOff, 0/1 ready: it broke", "pod shop/c is Pending, 0/1 ready", "pod shop/b is gone"}
	if d := cmp.Diff(want, now.changed(before)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestSummaryOfServices: what became of a service, and what it could not be given.
func TestSummaryOfServices(t *testing.T) {
	state := func(services ...*cluster.Service) *lab.State {
		return &lab.State{Objects: cluster.Objects{Services: services}}
	}
	svc := func(name string, change func(*cluster.Service)) *cluster.Service {
		v := &cluster.Service{Meta: cluster.Meta{Namespace: "shop", Name: name}, Type: cluster.ServiceClusterIP}
		change(v)
		return v
	}
	waiting := svc("web", func(v *cluster.Service) {
		v.Conditions = []cluster.Condition{{Type: "Allocated", Reason: "Exhausted", Message: "no address is free"}}
	})
	served := svc("web", func(v *cluster.Service) {
		v.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")}
		v.Ingress = []cluster.LBIngress{{IP: netip.MustParseAddr("192.0.2.1")}, {Hostname: "lb.example.com"}}
	})
	headless := svc("pods", func(v *cluster.Service) { v.Headless = true })
	elsewhere := svc("db", func(v *cluster.Service) { v.Type, v.ExternalName = cluster.ServiceExternalName, "db.example.com" })
	var got []string
	before := summary{}
	for _, s := range []*lab.State{state(waiting, headless), state(served, headless, elsewhere), state(served)} {
		now := summarize(s)
		got = append(got, now.changed(before)...)
		before = now
	}
	want := []string{
		"service shop/pods is headless",
		"service shop/web is without an address: no address is free",
		"service shop/db is another name for db.example.com",
		"service shop/web is at 10.96.0.10,fd00:10:96::10, outside at 192.0.2.1,lb.example.com",
		"service shop/db is gone",
		"service shop/pods is gone",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
