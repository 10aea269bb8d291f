package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
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
