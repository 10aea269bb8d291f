package control

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/cluster"
)

// TestDamage cuts the file off at every byte, and turns every byte around. A
// cut loses at most what was being written; damage is told, and the file kept.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	c := newController(t, func(cfg *Config) { cfg.Dir = dir; cfg.Nodes = 1 })
	var sizes []int // of the file after each change
	var pods []int
	for i := range 4 {
		apply(t, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: fmt.Sprint("p", i)}}}})
		data, err := os.ReadFile(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		sizes, pods = append(sizes, len(data)), append(pods, i+1)
	}
	data, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	loaded := func(size int) int {
		n := 0
		for i, s := range sizes {
			if size >= s {
				n = pods[i]
			}
		}
		return n
	}
	for size := range len(data) {
		kept, problem, err := replay(data[:size])
		if err != nil || problem != "" || len(kept.Put.Pods) != loaded(size) {
			t.Fatalf("cut at %d: %d pods, want %d (%s %v)", size, len(kept.Put.Pods), loaded(size), problem, err)
		}
	}
	for at := range data {
		bad := slices.Clone(data)
		bad[at] ^= 1
		kept, problem, err := replay(bad)
		line := at // where the damaged line begins
		for line > 0 && data[line-1] != '\n' {
			line--
		}
		if err != nil || len(kept.Put.Pods) != loaded(line) || problem == "" && at != len(data)-1 {
			t.Fatalf("damage at %d: %d pods, want %d (%q %v)", at, len(kept.Put.Pods), loaded(line), problem, err)
		}
	}
	damaged := slices.Clone(data)
	damaged[sizes[1]+30] ^= 1
	if err := os.WriteFile(filepath.Join(dir, journalName), damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	again := newController(t, func(cfg *Config) { cfg.Dir = dir })
	if p := again.Problems(); len(p) != 1 || !strings.Contains(p[0], "line 5 is damaged") {
		t.Errorf("problems %q", p)
	}
	aside, _ := filepath.Glob(filepath.Join(dir, journalName+".damaged-*"))
	if len(aside) != 1 || again.Store().State().Pods.Len() != 2 {
		t.Errorf("set aside %v, %d pods", aside, again.Store().State().Pods.Len())
	}
	if err := os.WriteFile(filepath.Join(dir, journalName), newer(t), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Dir = dir
	if _, err := New(cluster.NewStore(), cfg); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("a file of the future: %v", err)
	}
}

func newer(t *testing.T) []byte {
	line, err := encodeLine(&saved{Version: journalVersion + 1})
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func FuzzReplay(f *testing.F) {
	line, err := encodeLine(&saved{Version: 1, Revision: 7, Put: cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Name: "a"}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("00000000 \n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, _, err := replay(text); err != nil && !strings.Contains(err.Error(), "newer") {
			t.Error(err)
		}
		// The checksum keeps nonsense out; behind it there must be no panic either.
		var s saved
		s.Put.Pods = []*cluster.Pod{{Meta: cluster.Meta{Name: string(text)}}}
		line, err := encodeLine(&s)
		if err != nil {
			t.Fatal(err)
		}
		if kept, problem, err := replay(line); err != nil || problem != "" || len(kept.Put.Pods) != 1 {
			t.Errorf("%q %v", problem, err)
		}
	})
}

// TestFailedWrite: what is not on the disk must not have happened.
func TestFailedWrite(t *testing.T) {
	c := newController(t, func(cfg *Config) { cfg.Dir = t.TempDir() })
	apply(t, c, &cluster.Objects{})
	before := c.Store().State()
	c.journal.file.Close()
	pod := &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "p"}}}}
	if _, err := c.Apply(pod, ApplyOptions{}); err == nil || c.Store().State() != before {
		t.Fatalf("err %v; changed %v", err, c.Store().State() != before)
	}
	var err error
	if c.journal.file, err = os.OpenFile(c.journal.path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		t.Fatal(err)
	}
	apply(t, c, pod)
	if p := c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p"}); p == nil || p.Node == "" {
		t.Fatalf("after the disk is back: %+v", p)
	}
}

func TestJournalIsRewritten(t *testing.T) {
	dir := t.TempDir()
	c := newController(t, func(cfg *Config) { cfg.Dir = dir })
	for i := range 800 {
		apply(t, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "p",
			Labels: map[string]string{"v": fmt.Sprint(i)}, Annotations: map[string]string{"long": strings.Repeat("x", 4000)}}}}})
	}
	info, err := os.Stat(filepath.Join(dir, journalName))
	if err != nil || info.Size() > 3<<20 {
		t.Errorf("%d bytes for one pod (%v)", info.Size(), err)
	}
	again := newController(t, func(cfg *Config) { cfg.Dir = dir })
	if p := again.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p"}); p == nil || p.Labels["v"] != "799" {
		t.Errorf("%+v", p)
	}
}

// openReadOnly returns the file in such a way that writes to it fail.
func (j *journal) openReadOnly() (*os.File, error) { return os.Open(j.path) }
