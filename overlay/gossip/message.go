package gossip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// messageVersion is the first byte of every message between members, the kind
// is the second.
const messageVersion = 1

const (
	kindState   = 1 // one owner's complete state
	kindDelta   = 2 // what changed in it
	kindDigest  = 3 // which versions the sender holds, and states for who joins
	kindWant    = 4 // asks for states
	kindGoodbye = 5 // a life ends on purpose
	kindKeyAsk  = 6
	kindKeyTell = 7
)

// maxJoinBytes bounds the states that are packed into the answer to a join;
// the rest is asked for. Below memberlist's limit of 20 MiB.
const maxJoinBytes = 8 << 20

// podKey names a pod within its node.
type podKey struct{ namespace, name string }

func (p *Pod) key() podKey { return podKey{p.Namespace, p.Name} }

func (k podKey) compare(o podKey) int {
	if c := strings.Compare(k.namespace, o.namespace); c != 0 {
		return c
	}
	return strings.Compare(k.name, o.name)
}

// edition says which state of which owner is meant.
type edition struct {
	owner   string
	life    uint64
	version uint64 // from 1; 0: nothing of this life
}

// stateMsg is all that an owner announces beside its metadata.
type stateMsg struct {
	edition
	labels map[string]string
	pods   []Pod // sorted by key, unique
}

// deltaMsg turns any version from base to version-1 into version: it has the
// last value of all that changed after base.
type deltaMsg struct {
	edition
	base      uint64
	hasLabels bool
	labels    map[string]string
	set       []Pod    // sorted by key, unique
	removed   []podKey // sorted, none of them in set
}

// digestMsg compares what two nodes hold.
type digestMsg struct {
	editions []edition
	states   [][]byte // encoded state messages, for who joins
	gone     []former // for who joins
}

// former is what a node claimed that is not alive. It may come back, so others
// choose its ranges last.
type former struct {
	node   string
	claims []Claim
	left   uint64 // seconds for which this is to be remembered
}

// wantMsg asks for everything that is newer than the given editions.
type wantMsg struct {
	from     string
	editions []edition
}

// keyMsg asks for, or answers, an operation on the keyring.
type keyMsg struct {
	id   uint64
	from string
	op   keyOp
	arg  string // of a question (keyring.do)
	fail string // of an answer
	ring []string
}

func newMessage(kind uint8) writer { return writer{messageVersion, kind} }

func (w *writer) edition(e edition) {
	w.text(e.owner)
	w.u64(e.life)
	w.uint(e.version)
}

func (w *writer) labels(l map[string]string) {
	w.uint(uint64(len(l)))
	for _, k := range slices.Sorted(maps.Keys(l)) {
		w.text(k)
		w.text(l[k])
	}
}

func (w *writer) pods(pods []Pod) {
	w.uint(uint64(len(pods)))
	for i := range pods {
		p := &pods[i]
		w.text(p.Namespace)
		w.text(p.Name)
		w.text(p.UID)
		w.uint(uint64(len(p.IPs)))
		for _, a := range p.IPs {
			w.addr(a)
		}
		w.labels(p.Labels)
	}
}

func (s *stateMsg) encode() []byte {
	w := newMessage(kindState)
	w.edition(s.edition)
	w.labels(s.labels)
	w.pods(s.pods)
	return w
}

func (d *deltaMsg) encode() []byte {
	w := newMessage(kindDelta)
	w.edition(d.edition)
	w.uint(d.base)
	if d.hasLabels {
		w.u8(1)
		w.labels(d.labels)
	} else {
		w.u8(0)
	}
	w.pods(d.set)
	w.uint(uint64(len(d.removed)))
	for _, k := range d.removed {
		w.text(k.namespace)
		w.text(k.name)
	}
	return w
}

func (d *digestMsg) encode() []byte {
	w := newMessage(kindDigest)
	w.editions(d.editions)
	w.uint(uint64(len(d.states)))
	for _, s := range d.states {
		w.text(string(s))
	}
	w.uint(uint64(len(d.gone)))
	for _, f := range d.gone {
		w.text(f.node)
		w.uint(f.left)
		w.uint(uint64(len(f.claims)))
		for _, c := range f.claims {
			var v writer
			v.claim(c)
			w.text(string(v))
		}
	}
	return w
}

func (m *wantMsg) encode() []byte {
	w := newMessage(kindWant)
	w.text(m.from)
	w.editions(m.editions)
	return w
}

func (w *writer) editions(es []edition) {
	w.uint(uint64(len(es)))
	for _, e := range es {
		w.edition(e)
	}
}

func encodeGoodbye(e edition) []byte {
	w := newMessage(kindGoodbye)
	w.edition(e)
	return w
}

func (m *keyMsg) encode(kind uint8) []byte {
	w := newMessage(kind)
	w.u64(m.id)
	w.text(m.from)
	w.u8(uint8(m.op))
	w.text(m.arg)
	w.text(m.fail)
	w.uint(uint64(len(m.ring)))
	for _, k := range m.ring {
		w.text(k)
	}
	return w
}

// decodeMessage returns a *stateMsg, *deltaMsg, *digestMsg, *wantMsg, *edition
// (goodbye) or *keyMsg. It copies what it keeps of b.
func decodeMessage(b []byte) (kind uint8, msg any, err error) {
	r := &reader{buf: b}
	if v := r.u8(); r.err == nil && v != messageVersion {
		return 0, nil, fmt.Errorf("message version %d, this node knows %d: %w", v, messageVersion, errMalformed)
	}
	switch kind = r.u8(); kind {
	case kindState:
		msg = &stateMsg{edition: r.edition(), labels: r.labels(), pods: r.pods()}
	case kindDelta:
		msg = r.delta()
	case kindDigest:
		msg = r.digest()
	case kindWant:
		msg = &wantMsg{from: r.name(), editions: r.editions()}
	case kindGoodbye:
		e := r.edition()
		msg = &e
	case kindKeyAsk, kindKeyTell:
		msg = r.keys()
	default:
		return 0, nil, fmt.Errorf("message kind %d: %w", kind, errMalformed)
	}
	if err := r.end(); err != nil {
		return 0, nil, fmt.Errorf("message of kind %d: %w", kind, err)
	}
	return kind, msg, nil
}

func (r *reader) name() string {
	s := r.text(maxName)
	if r.err == nil && !validName(s) {
		r.err = errMalformed
	}
	return s
}

func (r *reader) edition() edition {
	return edition{owner: r.name(), life: r.u64(), version: r.uint()}
}

func (r *reader) editions() []edition {
	n := r.count(1<<20, 11)
	es := make([]edition, 0, n)
	for range n {
		es = append(es, r.edition())
	}
	return es
}

func (r *reader) labels() map[string]string {
	n := r.count(maxLabels, 3)
	if n == 0 {
		return nil
	}
	l := make(map[string]string, n)
	for range n {
		k := r.text(maxText)
		l[k] = r.text(maxText)
	}
	if r.err == nil && (len(l) != n || validLabels(l) != nil) {
		r.err = errMalformed
	}
	return l
}

func (r *reader) pods() []Pod {
	n := r.count(maxPods, 6)
	pods := make([]Pod, 0, n)
	for i := range n {
		p := Pod{Namespace: r.text(maxName), Name: r.text(maxName), UID: r.text(maxText)}
		ips := r.count(maxPodIPs, 5)
		for range ips {
			p.IPs = append(p.IPs, r.addr())
		}
		p.Labels = r.labels()
		if r.err == nil && (p.validate() != nil || i > 0 && pods[i-1].key().compare(p.key()) >= 0) {
			r.err = errMalformed
		}
		if r.err != nil {
			return nil
		}
		pods = append(pods, p)
	}
	return pods
}

func (r *reader) delta() *deltaMsg {
	d := &deltaMsg{edition: r.edition(), base: r.uint()}
	switch r.u8() {
	case 0:
	case 1:
		d.hasLabels, d.labels = true, r.labels()
	default:
		r.err = errMalformed
	}
	d.set = r.pods()
	n := r.count(maxPods, 2)
	for i := range n {
		k := podKey{r.text(maxName), r.text(maxName)}
		if r.err == nil && i > 0 && d.removed[i-1].compare(k) >= 0 {
			r.err = errMalformed
		}
		if r.err != nil {
			return d
		}
		d.removed = append(d.removed, k)
	}
	if r.err == nil && d.base >= d.version {
		r.err = errMalformed
	}
	return d
}

func (r *reader) digest() *digestMsg {
	d := &digestMsg{editions: r.editions()}
	n := r.count(1<<20, 1)
	for range n {
		if s := r.text(2 * maxJoinBytes); r.err == nil {
			d.states = append(d.states, []byte(s))
		}
	}
	n = r.count(1<<20, 3)
	for range n {
		f := former{node: r.name(), left: r.uint()}
		claims := r.count(maxClaims, 14)
		for range claims {
			c := reader{buf: []byte(r.text(maxText)), err: r.err}
			f.claims = append(f.claims, c.claim())
			r.err = c.err
		}
		if r.err != nil {
			return d
		}
		d.gone = append(d.gone, f)
	}
	return d
}

func (r *reader) keys() *keyMsg {
	m := &keyMsg{id: r.u64(), from: r.name(), op: keyOp(r.u8()), arg: r.text(maxText), fail: r.text(4 * maxText)}
	n := r.count(256, 1)
	for range n {
		m.ring = append(m.ring, r.text(maxText))
	}
	return m
}

// covers tells whether every address of p is one that ranges or own hold.
func (p *Pod) covers(ranges []netip.Prefix, own []netip.Addr) bool {
	for _, a := range p.IPs {
		if !containsAddr(ranges, a) && !slices.Contains(own, a) {
			return false
		}
	}
	return true
}
