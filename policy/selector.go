package policy

import (
	"strconv"
	"strings"

	"vswitch/vswitch/cluster"
)

// nameLabel is a label that every namespace has: its name.
const nameLabel = "kubernetes.io/metadata.name"

// selector is one way to select identities that policies use, however many of
// them do. It knows at any time whom it matches.
type selector struct {
	key string
	// nodes: it selects nodes, by labels; else pods.
	nodes bool
	// scoped: it looks at one namespace only; else at those that namespaces
	// selects, and at all of them if that is nil.
	scoped     bool
	namespace  string
	namespaces *cluster.Selector
	labels     *cluster.Selector // nil: any

	refs     int
	members  []uint32 // numbers of the identities, in order
	subjects map[*policy]struct{}
	users    map[*draft]struct{}
	seen     uint64 // the last pass of Compiler.match that came by
	queued   bool   // in Compiler.moved
}

func (s *selector) matches(w *who) bool {
	if s.nodes != w.node ||
		s.scoped && s.namespace != w.namespace ||
		s.namespaces != nil && !s.namespaces.Matches(w.namespaceLabels) {
		return false
	}
	return s.labels == nil || s.labels.Matches(w.labels)
}

// selectorKey is the same for selectors that are written the same.
func selectorKey(s *selector) string {
	var b strings.Builder
	if s.nodes {
		b.WriteString("nodes")
	}
	if s.scoped {
		b.WriteByte('=')
		b.WriteString(s.namespace)
	}
	for _, part := range []*cluster.Selector{s.namespaces, s.labels} {
		b.WriteByte(0)
		if part == nil {
			continue
		}
		for _, r := range part.Requirements {
			b.WriteString(string(r.Operator))
			for _, v := range append([]string{r.Key}, r.Values...) {
				b.WriteString(strconv.Itoa(len(v)))
				b.WriteByte(':')
				b.WriteString(v)
			}
		}
	}
	return b.String()
}

// anchor is something that an identity must have for a selector to match it:
// where it must be, and a label. Selectors are kept by anchor, so that a new
// identity meets those only that may match it.
type anchor struct {
	place string // a namespace, a label of it, nodesPlace, or empty: anywhere
	label label  // zero: any
}

const nodesPlace = "\x00nodes"

func namePlace(namespace string) string { return "\x00name\x00" + namespace }
func labelPlace(key, value string) string {
	return "\x00label\x00" + key + "\x00" + value
}

// maxAnchors bounds under how many anchors one selector is kept.
const maxAnchors = 32

// anchors returns where the selector is kept: any identity that it matches has
// exactly one of them, or at least one.
func (s *selector) anchors() []anchor {
	places := []string{""}
	switch {
	case s.nodes:
		places = []string{nodesPlace}
	case s.scoped:
		places = []string{namePlace(s.namespace)}
	case s.namespaces != nil:
		if r := mostSpecific(s.namespaces); r != nil {
			places = places[:0]
			for _, v := range r.Values {
				if r.Key == nameLabel {
					places = append(places, namePlace(v))
				} else {
					places = append(places, labelPlace(r.Key, v))
				}
			}
		}
	}
	labels := []label{{}}
	if s.labels != nil {
		if r := mostSpecific(s.labels); r != nil && len(places)*len(r.Values) <= maxAnchors {
			labels = labels[:0]
			for _, v := range r.Values {
				labels = append(labels, label{r.Key, v})
			}
		}
	}
	out := make([]anchor, 0, len(places)*len(labels))
	for _, p := range places {
		for _, l := range labels {
			out = append(out, anchor{p, l})
		}
	}
	return out
}

// mostSpecific returns the requirement that says which values a label must have
// with the fewest of them, or nil if none does.
func mostSpecific(s *cluster.Selector) *cluster.Requirement {
	var best *cluster.Requirement
	for i := range s.Requirements {
		r := &s.Requirements[i]
		if r.Operator == cluster.SelectIn && (best == nil || len(r.Values) < len(best.Values) || r.Key == nameLabel && best.Key != nameLabel) {
			best = r
		}
	}
	return best
}

// anchorsOf calls f with all anchors that the identity has.
func anchorsOf(w *who, f func(anchor)) {
	at := func(place string) {
		f(anchor{place: place})
		for k, v := range w.labels {
			f(anchor{place, label{k, v}})
		}
	}
	if w.node {
		at(nodesPlace)
		return
	}
	at("")
	at(namePlace(w.namespace))
	for k, v := range w.namespaceLabels {
		if k != nameLabel {
			at(labelPlace(k, v))
		}
	}
}

// selectors are all that are in use.
type selectors struct {
	byKey    map[string]*selector
	byAnchor map[anchor][]*selector
	pass     uint64
}

// find returns the selector that is written like s, and whether it is new.
func (t *selectors) find(s selector) (*selector, bool) {
	s.key = selectorKey(&s)
	if old := t.byKey[s.key]; old != nil {
		old.refs++
		return old, false
	}
	s.refs = 1
	s.subjects, s.users = map[*policy]struct{}{}, map[*draft]struct{}{}
	t.byKey[s.key] = &s
	for _, a := range s.anchors() {
		t.byAnchor[a] = append(t.byAnchor[a], &s)
	}
	return &s, true
}

func (t *selectors) remove(s *selector) {
	delete(t.byKey, s.key)
	for _, a := range s.anchors() {
		if rest := without(t.byAnchor[a], s); len(rest) > 0 {
			t.byAnchor[a] = rest
		} else {
			delete(t.byAnchor, a)
		}
	}
}

// candidates calls f with the identities among which are all that s matches:
// the shortest list there is.
func (c *Compiler) candidates(s *selector, f func(*identity)) {
	switch {
	case s.nodes:
		c.ids.nodes.search(s.labels, f)
	case s.scoped:
		if ns := c.namespaces[s.namespace]; ns != nil {
			ns.postings.search(s.labels, f)
		}
	case s.namespaces == nil || len(s.namespaces.Requirements) == 0:
		c.ids.everyPod.search(s.labels, f)
	case s.labels != nil && c.ids.everyPod.count(s.labels) <= len(c.namespaces):
		c.ids.everyPod.search(s.labels, f)
	default:
		c.selectNamespaces(s.namespaces, func(ns *namespace) { ns.postings.search(s.labels, f) })
	}
}

// selectNamespaces calls f with the namespaces that s selects.
func (c *Compiler) selectNamespaces(s *cluster.Selector, f func(*namespace)) {
	if r := mostSpecific(s); r != nil && r.Key == nameLabel {
		for _, name := range r.Values {
			if ns := c.namespaces[name]; ns != nil && s.Matches(ns.labels) {
				f(ns)
			}
		}
		return
	}
	for _, ns := range c.namespaces {
		if s.Matches(ns.labels) {
			f(ns)
		}
	}
}

// count returns how many identities search would look at.
func (p *postings) count(s *cluster.Selector) int {
	r := mostSpecific(s)
	if r == nil {
		return len(p.all)
	}
	n := 0
	for _, v := range r.Values {
		n += len(p.byLabel[label{r.Key, v}])
	}
	return n
}

func (p *postings) search(s *cluster.Selector, f func(*identity)) {
	if s != nil {
		if r := mostSpecific(s); r != nil {
			for _, v := range r.Values {
				for _, i := range p.byLabel[label{r.Key, v}] {
					f(i)
				}
			}
			return
		}
	}
	for _, i := range p.all {
		f(i)
	}
}
