package fabric

import (
	"bytes"
	"cmp"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vswitch/vswitch"
	"vswitch/vswitch/agent"
)

// Bounds of a recording.
const (
	recordPackets = 512  // of every port
	recordBytes   = 2048 // of every packet
)

// TB is what a recording needs of a *testing.T, *testing.B or *testing.F; the
// package testing itself would become part of every program with a fabric.
type TB interface {
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	ArtifactDir() string
}

// RecordOnFailure keeps, from now on, the last packets at every port of every
// node, those that are added later included, and writes them as pcapng if the
// test has failed by its end, that is, when its cleanup comes to what was
// registered before this call. The file goes to the test's artifact directory
// if go test was given -artifacts, else to a new temporary directory that is
// left there; its path is logged. Every port is an interface of the file.
//
// 512 packets of a port are kept, up to 2,048 bytes each. Forwarding waits
// while one is copied, so that no packet is missed and their order is right
// across nodes. Call it once.
func (f *Fabric) RecordOnFailure(t TB) {
	f.rec = &recording{rings: map[portName]*ring{}}
	for _, n := range f.Nodes {
		f.rec.watch(n)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		switch path, err := f.rec.save(t); {
		case err != nil:
			t.Logf("the packets of the failed test are lost: %v", err)
		case path == "":
			t.Logf("no packet was seen at any port of the fabric")
		default:
			t.Logf("the last packets of every port are in %s", path)
		}
	})
}

// recording holds what was seen last at the ports of all nodes.
type recording struct {
	mu    sync.Mutex
	rings map[portName]*ring
	seen  uint64    // packets so far
	epoch time.Time // when the switches' clocks were zero
}

type portName struct{ node, port string }

// ring is the last packets of a port. Their memory is used again.
type ring struct {
	sights []seen
	next   int // the oldest, once there are recordPackets
}

// seen is a sight and its place in the order of all of a recording.
type seen struct {
	vswitch.Sight
	n    uint64
	name portName
}

func (r *recording) watch(n *Node) {
	n.Switch.CaptureFunc("", recordBytes, func(s vswitch.Sight) { r.add(portName{n.Name, s.Port}, s) })
}

func (r *recording) add(name portName, s vswitch.Sight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == 0 {
		r.epoch = time.Now().Add(-s.At)
	}
	r.seen++
	g := r.rings[name]
	if g == nil {
		g = &ring{}
		r.rings[name] = g
	}
	if len(g.sights) < recordPackets {
		g.sights = append(g.sights, seen{})
		g.next = len(g.sights) - 1
	}
	old := &g.sights[g.next]
	g.next = (g.next + 1) % recordPackets
	s.Frame = append(old.Frame[:0], s.Frame...)
	*old = seen{s, r.seen, name}
}

// save writes the recording to a file that survives the test, unless there is
// nothing to write.
func (r *recording) save(t TB) (path string, err error) {
	all := r.all()
	if len(all) == 0 {
		return "", nil
	}
	var dir string
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		dir = t.ArtifactDir() // without the flag, it is removed after the test
	} else if dir, err = os.MkdirTemp("", "fabric-"); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "fabric-*.pcapng") // a test may have several
	if err != nil {
		return "", err
	}
	err = write(f, all, r.epoch)
	return filepath.Clean(f.Name()), cmp.Or(err, f.Close())
}

// all returns a copy of what is kept, in the order in which it was seen.
func (r *recording) all() (all []seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.rings {
		for _, s := range g.sights {
			s.Frame = bytes.Clone(s.Frame)
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b seen) int { return cmp.Compare(a.n, b.n) })
	return all
}

// write writes sights as pcapng; epoch is the time when clocks were zero.
func write(w io.Writer, all []seen, epoch time.Time) error {
	ng := agent.NewPcapngWriter(w, "vswitch fabric", recordBytes)
	ids := map[portName]int{}
	for _, s := range all {
		id, ok := ids[s.name]
		if !ok {
			var err error
			if id, err = ng.Interface(s.name.node+"/"+s.name.port, "node "+s.name.node+", port "+s.name.port); err != nil {
				return err
			}
			ids[s.name] = id
		}
		ng.Packet(id, epoch.Add(s.At), s.Sight)
	}
	return ng.Flush()
}
