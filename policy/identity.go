package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"vswitch/vswitch/cluster"
)

// identity is what selectors and named ports can tell about a pod or a node:
// all that have the same are one to the compiled rules. Its number is dense, so
// that a direction can have a row for each. Number 0 is nobody: an address that
// is neither a pod's nor a node's.
type identity struct {
	id      uint32
	key     string
	who     *who
	ports   []namedPort // sorted; of pods only
	parties []*party    // those that have it
	// selectors are those that match it, in no order.
	selectors []*selector
	queued    bool // in Compiler.unmatched
	counted   bool // in identities.named
}

// who is what selectors look at. It never changes; a namespace that gets other
// labels gives its identities another one.
type who struct {
	node            bool
	namespace       string
	namespaceLabels map[string]string
	labels          map[string]string
}

// namedPort is a container's port that has a name.
type namedPort struct {
	name  string
	proto uint8
	port  uint16
}

func comparePorts(a, b namedPort) int {
	if c := strings.Compare(a.name, b.name); c != 0 {
		return c
	}
	return (int(a.proto)-int(b.proto))<<16 + int(a.port) - int(b.port)
}

// namedPorts returns the named ports of the containers that run as long as the
// pod does. A name that two containers have stands for both of their ports.
func namedPorts(p *cluster.Pod) []namedPort {
	var out []namedPort
	add := func(c *cluster.Container) {
		for _, cp := range c.Ports {
			if cp.Name != "" {
				out = append(out, namedPort{cp.Name, cp.Protocol, cp.Port})
			}
		}
	}
	for i := range p.Containers {
		add(&p.Containers[i])
	}
	for i := range p.InitContainers {
		if p.InitContainers[i].Sidecar {
			add(&p.InitContainers[i])
		}
	}
	slices.SortFunc(out, comparePorts)
	return slices.Compact(out)
}

// identityKey tells identities apart. No label and no name holds a NUL.
func identityKey(node bool, namespace string, labels map[string]string, ports []namedPort) string {
	var b strings.Builder
	if node {
		b.WriteByte(0)
	}
	b.WriteString(namespace)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString("\x00l")
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(labels[k])
	}
	for _, p := range ports {
		b.WriteString("\x00p")
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(strconv.Itoa(int(p.proto)<<16 | int(p.port)))
	}
	return b.String()
}

// identities are all that some pod or node has.
type identities struct {
	byKey map[string]*identity
	byID  []*identity // nil where a number is free; 0 is nobody's
	free  []uint32
	// everyPod and nodes find identities by label; those of one namespace are
	// found by its own postings.
	everyPod, nodes postings
	// named counts the identities that have a named port, by name and value.
	named map[string]map[namedPort]int
	// ported are the identities of pods with named ports, by number.
	ported map[uint32]*identity
}

// postings finds identities by a label that they have.
type postings struct {
	all     []*identity
	byLabel map[label][]*identity
}

type label struct{ key, value string }

func (p *postings) add(i *identity) {
	p.all = append(p.all, i)
	if p.byLabel == nil {
		p.byLabel = map[label][]*identity{}
	}
	for k, v := range i.who.labels {
		p.byLabel[label{k, v}] = append(p.byLabel[label{k, v}], i)
	}
}

func (p *postings) remove(i *identity) {
	p.all = without(p.all, i)
	for k, v := range i.who.labels {
		if rest := without(p.byLabel[label{k, v}], i); len(rest) > 0 {
			p.byLabel[label{k, v}] = rest
		} else {
			delete(p.byLabel, label{k, v})
		}
	}
}

// without takes v out of an unordered list.
func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}

// add makes an identity. Somebody has yet to match it with the selectors.
func (s *identities) add(key string, w *who, ports []namedPort, ns *namespace) *identity {
	i := &identity{key: key, who: w, ports: ports}
	if n := len(s.free); n > 0 {
		i.id = s.free[n-1]
		s.free = s.free[:n-1]
		s.byID[i.id] = i
	} else {
		i.id = uint32(len(s.byID))
		s.byID = append(s.byID, i)
	}
	s.byKey[key] = i
	if w.node {
		s.nodes.add(i)
		return i
	}
	s.everyPod.add(i)
	ns.postings.add(i)
	if len(ports) > 0 {
		s.ported[i.id] = i
	}
	return i
}

// remove forgets an identity. Its number may be used again only once nothing of
// it is left in the directions.
func (s *identities) remove(i *identity, ns *namespace) {
	delete(s.byKey, i.key)
	s.byID[i.id] = nil
	if i.who.node {
		s.nodes.remove(i)
		return
	}
	s.everyPod.remove(i)
	ns.postings.remove(i)
	delete(s.ported, i.id)
}
