package gossip

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// world is a trivially right model of an owner: every version as a map.
type world struct {
	versions []map[podKey]string // by version; a pod's uid stands for its content
	zones    []string
}

func (w *world) matches(t *testing.T, h *held) {
	t.Helper()
	want := w.versions[h.version]
	if len(want) != len(h.pods) || h.labels["zone"] != w.zones[h.version] {
		t.Fatalf("version %d has %d pods in zone %q, want %d in %q", h.version, len(h.pods), h.labels["zone"], len(want), w.zones[h.version])
	}
	for i, p := range h.pods {
		if want[p.key()] != p.UID {
			t.Fatalf("version %d: pod %v is %q, want %q", h.version, p.key(), p.UID, want[p.key()])
		}
		if i > 0 && h.pods[i-1].key().compare(p.key()) >= 0 {
			t.Fatalf("version %d is not sorted", h.version)
		}
	}
}

// drive lets an owner change and members receive deltas and states late, out
// of order, twice or never, as the bytes of script say. Whatever a member
// holds must be exactly what the owner had at that version, and whoever asks
// for the rest gets it.
func drive(t *testing.T, script []byte) {
	w := &world{versions: []map[podKey]string{nil, {}}, zones: []string{"", "z0"}}
	l := newLedger("n1", 7, map[string]string{"zone": "z0"})
	members := make([]*held, 3)
	var flying [][]byte
	deliver := func(to int, b []byte) {
		_, msg, err := decodeMessage(b)
		must0(t, err)
		before := members[to]
		var v verdict
		switch m := msg.(type) {
		case *stateMsg:
			members[to], v = before.take(m)
		case *deltaMsg:
			members[to], v = before.apply(m)
		}
		if h := members[to]; h != nil {
			w.matches(t, h)
			if before != nil && (h.version < before.version || (v == taken) != (h.version > before.version)) {
				t.Fatalf("verdict %d from version %d to %d", v, before.version, h.version)
			}
		}
	}
	for i := 0; i+2 < len(script); i += 3 {
		op, a, b := script[i], int(script[i+1]), int(script[i+2])
		switch op % 8 {
		case 0, 1, 2: // change some pods
			next := map[podKey]string{}
			for k, v := range w.versions[l.version] {
				next[k] = v
			}
			for k := range 1 + a%3 {
				key := podKey{"ns", fmt.Sprintf("p%d", (a+k*b)%9)}
				if _, ok := next[key]; ok && b%2 == 0 {
					delete(next, key)
				} else {
					next[key] = fmt.Sprint("uid-", len(w.versions))
				}
			}
			var pods []Pod
			for k, v := range next {
				pods = append(pods, Pod{Namespace: k.namespace, Name: k.name, UID: v})
			}
			slices.SortFunc(pods, func(x, y Pod) int { return x.key().compare(y.key()) })
			if l.setPods(pods) {
				w.versions, w.zones = append(w.versions, next), append(w.zones, w.zones[len(w.zones)-1])
			}
		case 3: // change labels
			zone := fmt.Sprint("z", a%4)
			if l.setLabels(map[string]string{"zone": zone}) {
				w.versions, w.zones = append(w.versions, w.versions[len(w.versions)-1]), append(w.zones, zone)
			}
		case 4, 5: // a message sets out
			flying = append(flying, slices.Clone(l.since(uint64(1+a)%l.version)))
		case 6: // and arrives somewhere, maybe not for the last time
			if len(flying) > 0 {
				deliver(b%len(members), flying[a%len(flying)])
			}
		case 7: // the owner forgets graves, as it does after many
			if n := len(l.graves); n > 0 {
				cut := 1 + a%n
				l.floor = max(l.floor, l.graves[cut-1].at)
				l.graves = l.graves[cut:]
				l.part = nil
			}
		}
	}
	for i := range members { // repair: ask for what is newer
		have := uint64(0)
		if members[i] != nil {
			have = members[i].version
		}
		if have < l.version {
			deliver(i, l.since(have))
		}
		if members[i] == nil || members[i].version != l.version {
			t.Fatalf("member %d is not repaired", i)
		}
	}
}

func TestTableAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		script := make([]byte, 3*r.IntN(80))
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		drive(t, script)
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 1, 4, 0, 0, 6, 0, 0, 0, 2, 2, 4, 1, 0, 6, 1, 1, 7, 0, 0, 3, 1, 0, 6, 0, 2})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) <= 600 {
			drive(t, script)
		}
	})
}

func TestLedgerForgetsGraves(t *testing.T) {
	l := newLedger("n1", 1, nil)
	var all []Pod
	for i := range 2 * maxGraves {
		all = append(all, Pod{Name: fmt.Sprintf("p%06d", i)})
	}
	l.setPods(all)
	for i := range all {
		l.setPods(all[i+1:])
	}
	if len(l.graves) > maxGraves {
		t.Errorf("%d graves", len(l.graves))
	}
	for base, want := range map[uint64]uint8{2: kindState, l.version - 10: kindDelta, l.version + 5: kindState} {
		if kind := l.since(base)[1]; kind != want {
			t.Errorf("since %d of %d: kind %d, want %d", base, l.version, kind, want)
		}
	}
}

func TestVetPods(t *testing.T) {
	ip := []netip.Addr{netip.MustParseAddr("10.244.1.2")}
	kept, err := vetPods([]Pod{{Name: "b"}, {Name: "a", IPs: ip}, {Name: ""}, {Name: "b"}, {Name: "c", IPs: ip},
		{Name: "d", IPs: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}}})
	var names []string
	for _, p := range kept {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Error(names)
	}
	for _, want := range []string{"pod /b is given twice", "pod /c: 10.244.1.2 belongs to /a already", "name has 0 bytes", "pod /d: ::ffff:10.0.0.1 is no pod address"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestVetPodsBoundsTheMessage(t *testing.T) {
	fat := map[string]string{}
	for i := range 200 {
		fat[fmt.Sprint("key-", i)] = strings.Repeat("v", 400)
	}
	var many, big []Pod
	for i := range maxPods + 5 {
		many = append(many, Pod{Name: fmt.Sprintf("p%06d", i)})
		big = append(big, Pod{Name: fmt.Sprintf("p%06d", i), Labels: fat})
	}
	for _, all := range [][]Pod{many, big} {
		kept, err := vetPods(all)
		if err == nil || len(kept) == 0 || len(kept) == len(all) {
			t.Errorf("%d of %d pods are announced: %v", len(kept), len(all), err)
		}
		if n := len((&stateMsg{edition: edition{"n", 1, 1}, pods: kept}).encode()); n > maxJoinBytes {
			t.Errorf("a message of %d bytes", n)
		}
	}
}

func TestSetPodsReportsRanges(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		g := c.start("n1", 1)
		c.agree(3e9, g)
		err := g.SetPods([]Pod{{Name: "in", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}, {Name: "out", IPs: []netip.Addr{netip.MustParseAddr("10.244.2.2")}}})
		if !errors.Is(err, ErrOutOfRange) || !strings.Contains(err.Error(), "pod /out") || strings.Contains(err.Error(), "pod /in") {
			t.Error(err)
		}
		if s := g.Snapshot(); len(s.Self.Pods) != 1 || s.Self.Pods[0].Name != "in" {
			t.Error(s.Self.Pods)
		}
	})
}
