package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/fabric"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/trace"
)

// stateOf makes the cluster of manifests.
func stateOf(t *testing.T, files ...string) *cluster.State {
	t.Helper()
	o, warnings, err := kube.Load(files, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	s, err := control.Static(control.Default(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMatrixIsTrace: every cell is what becomes of a packet.
func TestMatrixIsTrace(t *testing.T) {
	state := stateOf(t, "../../examples/policy/k8s")
	f, err := fabric.FromState(state, fabric.Config{Inline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	where := trace.New(state, f)
	pods := slices.Collect(state.Pods.All())
	allowed, denied := 0, 0
	for _, o := range []matrixOptions{{port: 8080, proto: "tcp"}, {port: 9090}, {port: 5432}, {port: 8080, proto: "udp"}, {proto: "icmp"}} {
		m := newMatrix(state, pods, &o)
		for i, from := range pods {
			for j, to := range pods {
				p := trace.Probe{From: from.Key().String(), To: to.Key().String(), Proto: o.proto}
				if o.port != 0 {
					p.To += fmt.Sprintf(":%d", o.port)
				}
				r, err := where.Trace(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				want := reachNone
				switch {
				case i == j:
					want = reachSelf
				case r.Verdict == trace.Delivered:
					want = reachAll
					allowed++
				default:
					denied++
				}
				if got := m.cells[i][j]; got != want {
					t.Errorf("%+v: %s to %s is %q, and a trace finds it %s (%s)", o, p.From, p.To, reachMarks[got], r.Verdict, r.Reason)
				}
				if by := m.policies[i][j]; want == reachNone && by != r.Policy {
					t.Errorf("%+v: %s to %s is denied by %q, and in a trace by %q", o, p.From, p.To, by, r.Policy)
				}
			}
		}
	}
	if allowed == 0 || denied == 0 {
		t.Errorf("%d allowed, %d denied: the test tests nothing", allowed, denied)
	}
}

func TestReachAnd(t *testing.T) {
	for _, c := range []struct{ a, b, want reach }{
		{reachAll, reachAll, reachAll}, {reachNone, reachNone, reachNone}, {reachAll, reachNone, reachSome},
		{reachSome, reachAll, reachSome}, {reachSelf, reachNone, reachNone}, {reachAll, reachSelf, reachAll}, {reachSelf, reachSelf, reachSelf},
	} {
		if got := c.a.and(c.b); got != c.want {
			t.Errorf("%q and %q is %q", reachMarks[c.a], reachMarks[c.b], reachMarks[got])
		}
		if got := c.b.and(c.a); got != c.want {
			t.Errorf("%q and %q is %q", reachMarks[c.b], reachMarks[c.a], reachMarks[got])
		}
	}
}

// TestMatrixOfMany: columns stay below their numbers, however many there are.
func TestMatrixOfMany(t *testing.T) {
	for _, n := range []int{9, 12, 50, 51, 120} {
		m := &matrix{}
		for i := range n {
			m.names = append(m.names, fmt.Sprintf("some-namespace/pod-%d", i))
			row := make([]reach, n)
			row[i] = reachSelf
			m.cells = append(m.cells, row)
		}
		var out bytes.Buffer
		m.print(&out)
		lines := strings.Split(out.String(), "\n")
		digits := len(fmt.Sprint(n))
		for i := range n {
			row := lines[digits+i]
			at := strings.LastIndexByte(row, '-') // names have dashes, too, further left
			number := ""
			for _, head := range lines[:digits] {
				number += string((head + strings.Repeat(" ", 400))[at])
			}
			if got := strings.TrimSpace(number); got != fmt.Sprint(i+1) {
				t.Errorf("%d pods: the column of row %q has the number %q", n, row, got)
			}
		}
	}
}
