package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// keyOp is an operation on the keyring, as it is on the wire.
type keyOp uint8

const (
	opList    keyOp = 0
	opInstall keyOp = 1
	opUse     keyOp = 2
	opRemove  keyOp = 3
	opHold    keyOp = 4 // for a rotation of the node that the argument names
	opRelease keyOp = 5
)

// KeyAnswer is one node's answer to a keyring command.
type KeyAnswer struct {
	Node string
	// Err is why the node did not do it; "no answer" if it did not say.
	Err string
	// Keys are the fingerprints of the node's keys after the command, the primary
	// one first.
	Keys []string
}

// asks are the questions that wait for answers.
type asks struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]chan *keyMsg
}

func (a *asks) ask(room int) (id uint64, answers chan *keyMsg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = map[uint64]chan *keyMsg{}
	}
	a.last++
	answers = make(chan *keyMsg, room)
	a.open[a.last] = answers
	return a.last, answers
}

func (a *asks) close(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, id)
}

func (a *asks) answered(m *keyMsg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case a.open[m.id] <- m:
	default: // late, repeated, or to nobody's question
	}
}

// Keys asks every live node for its keys.
func (g *Gossip) Keys(ctx context.Context) ([]KeyAnswer, error) {
	return g.command(ctx, opList, "")
}

// InstallKey adds a key to the ring of every live node: they can decrypt with
// it from then on. The first step of a rotation; repeat it until every node
// has answered.
func (g *Gossip) InstallKey(ctx context.Context, key []byte) ([]KeyAnswer, error) {
	if memberlist.ValidateKey(key) != nil {
		return nil, fmt.Errorf("install key of %d bytes: %w", len(key), ErrKeySize)
	}
	a, err := g.command(ctx, opInstall, string(key))
	return a, wrap("install key "+Fingerprint(key), err)
}

// UseKey makes every live node encrypt with an installed key. It is refused
// (ErrUnknownKey) unless every live node has the key, because one that has not
// would be cut off.
func (g *Gossip) UseKey(ctx context.Context, fingerprint string) ([]KeyAnswer, error) {
	a, err := g.command(ctx, opList, "")
	if err == nil {
		err = must(a, func(k *KeyAnswer) error {
			if !slices.Contains(k.Keys, fingerprint) {
				return fmt.Errorf("%w; install it first", ErrUnknownKey)
			}
			return nil
		})
	}
	if err == nil {
		a, err = g.command(ctx, opUse, fingerprint)
	}
	return a, wrap("use key "+fingerprint, err)
}

// RemoveKey takes a key off the ring of every live node. It is refused while
// any of them encrypts with it (ErrPrimaryKey), and if none of them has it
// (ErrUnknownKey).
func (g *Gossip) RemoveKey(ctx context.Context, fingerprint string) ([]KeyAnswer, error) {
	a, err := g.command(ctx, opList, "")
	if err == nil {
		err = must(a, func(k *KeyAnswer) error {
			if len(k.Keys) > 0 && k.Keys[0] == fingerprint {
				return ErrPrimaryKey
			}
			return nil
		})
	}
	if err == nil && !slices.ContainsFunc(a, func(k KeyAnswer) bool { return slices.Contains(k.Keys, fingerprint) }) {
		err = ErrUnknownKey
	}
	if err == nil {
		a, err = g.command(ctx, opRemove, fingerprint)
	}
	return a, wrap("remove key "+fingerprint, err)
}

// RotateKey makes key the only one of every live node: it installs it, has all
// of them encrypt with it, and takes off the others that were there when it
// began. It goes on to the next step only once every node has done the last
// one, so whenever it stops every node decrypts what every other sends, and
// rotating again finishes the work.
//
// A node that is not there misses it and is refused when it comes back, so
// rotation is refused (ErrNodeDown) while a node has failed, unless force is
// set. Only one rotation may run at a time in a cluster: another one is refused
// (ErrRotating).
func (g *Gossip) RotateKey(ctx context.Context, key []byte, force bool) ([]KeyAnswer, error) {
	if down := g.failed(); len(down) > 0 && !force {
		return nil, fmt.Errorf("rotate keys: %w", must(down, func(*KeyAnswer) error { return ErrNodeDown }))
	}
	if g.ring == nil {
		return nil, wrap("rotate keys", ErrNoKeys)
	}
	release, err := g.holdKeys(ctx)
	if err != nil {
		return nil, wrap("rotate keys", err)
	}
	defer release()
	before, err := g.Keys(ctx)
	if err != nil {
		return before, wrap("rotate keys", err)
	}
	name := Fingerprint(key)
	steps := []func() ([]KeyAnswer, error){
		func() ([]KeyAnswer, error) { return g.InstallKey(ctx, key) },
		func() ([]KeyAnswer, error) { return g.UseKey(ctx, name) },
	}
	for _, old := range installed(before) {
		if old != name {
			steps = append(steps, func() ([]KeyAnswer, error) {
				g.pause(ctx, g.cfg.Timing.ProbeInterval) // for what is on its way, encrypted with it
				return g.RemoveKey(ctx, old)
			})
		}
	}
	var a []KeyAnswer
	for _, step := range steps {
		if err = g.holdAll(ctx); err == nil {
			a, err = step()
		}
		if err == nil {
			err = missing(before, a)
		}
		if err != nil {
			return a, wrap("rotate keys", err)
		}
	}
	return a, nil
}

// installed returns all keys that any node has, sorted.
func installed(as []KeyAnswer) (keys []string) {
	for i := range as {
		keys = append(keys, as[i].Keys...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// missing names the nodes that answered before and not now: they went down
// meanwhile, or seem to have.
func missing(before, now []KeyAnswer) error {
	return must(before, func(k *KeyAnswer) error {
		if !slices.ContainsFunc(now, func(n KeyAnswer) bool { return n.Node == k.Node }) {
			return ErrNodeDown
		}
		return nil
	})
}

// pause waits, unless something ends.
func (g *Gossip) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-g.done:
	}
}

// failed returns the nodes that stopped answering.
func (g *Gossip) failed() (down []KeyAnswer) {
	for _, n := range g.Snapshot().Nodes {
		if n.State == Failed {
			down = append(down, KeyAnswer{Node: n.Name})
		}
	}
	return down
}

// must joins what test says about the answers: each reason once, with the names
// of its nodes.
func must(as []KeyAnswer, test func(*KeyAnswer) error) (err error) {
	nodes := map[string][]string{}
	var reasons []error
	for i := range as {
		e := test(&as[i])
		if e == nil {
			continue
		}
		if nodes[e.Error()] == nil {
			reasons = append(reasons, e)
		}
		nodes[e.Error()] = append(nodes[e.Error()], as[i].Node)
	}
	for _, e := range reasons {
		who := "node "
		if len(nodes[e.Error()]) > 1 {
			who = "nodes "
		}
		e = fmt.Errorf("%s%s: %w", who, strings.Join(nodes[e.Error()], ", "), e)
		if err == nil {
			err = e
		} else {
			err = fmt.Errorf("%w; %w", err, e)
		}
	}
	return err
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// command has every live node, this one included, do op, and collects the
// answers until all are in, or none can come any more, or ctx ends. The error
// names the nodes that did not do it. Answers are sorted by node.
func (g *Gossip) command(ctx context.Context, op keyOp, arg string) ([]KeyAnswer, error) {
	if g.ring == nil {
		return nil, ErrNoKeys
	}
	own := KeyAnswer{Node: g.cfg.Name}
	if err := g.ring.do(op, arg); err != nil {
		own.Err = err.Error()
	}
	own.Keys = g.ring.fingerprints()
	as := append(g.question(ctx, op, arg, g.peerNames()), own)
	slices.SortFunc(as, func(a, b KeyAnswer) int { return strings.Compare(a.Node, b.Node) })
	return as, must(as, func(k *KeyAnswer) error {
		if k.Err != "" {
			return errors.New(k.Err)
		}
		return nil
	})
}

// peerNames names all live members but this one.
func (g *Gossip) peerNames() (names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.peers() {
		names = append(names, p.to.Name)
	}
	return names
}

// question asks the named members. It asks again whoever did not answer: to
// repeat an operation changes nothing, and a member that does not know this
// node yet could not answer it.
func (g *Gossip) question(ctx context.Context, op keyOp, arg string, names []string) (as []KeyAnswer) {
	// A question and its answer are a stream each, and each may fail once.
	ctx, cancel := context.WithTimeout(ctx, 4*g.cfg.Timing.Stream)
	defer cancel()
	again := time.NewTicker(g.cfg.Timing.ProbeInterval)
	defer again.Stop()

	waiting := map[string]bool{}
	for _, name := range names {
		waiting[name] = true
	}
	id, in := g.asks.ask(2 * len(waiting))
	defer g.asks.close(id)
	b := (&keyMsg{id: id, from: g.cfg.Name, op: op, arg: arg}).encode(kindKeyAsk)
	for alive := g.sendTo(waiting, b); alive > 0 && len(waiting) > 0; {
		select {
		case m := <-in:
			if waiting[m.from] {
				delete(waiting, m.from)
				as = append(as, KeyAnswer{Node: m.from, Err: m.fail, Keys: m.ring})
			}
		case <-again.C:
			alive = g.sendTo(waiting, b)
		case <-ctx.Done():
			alive = 0
		case <-g.done:
			alive = 0
		}
	}
	for n := range waiting {
		as = append(as, KeyAnswer{Node: n, Err: "no answer"})
	}
	return as
}

// sendTo sends a message to those of the named members that are alive, and
// returns their number.
func (g *Gossip) sendTo(names map[string]bool, b []byte) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range names {
		if m := g.members[name]; m != nil && m.peer != nil {
			m.peer.send(b)
			n++
		}
	}
	return n
}

// obey does what another node's command says and answers it.
func (g *Gossip) obey(m *keyMsg) {
	answer := &keyMsg{id: m.id, from: g.cfg.Name, op: m.op}
	if err := g.ring.do(m.op, m.arg); err != nil {
		answer.fail = err.Error()
		answer.fail = answer.fail[:min(len(answer.fail), maxText)]
	}
	answer.ring = g.ring.fingerprints()
	if m.op != opList {
		g.log.Info("keyring command", "from", m.from, "op", m.op, "keys", answer.ring, "err", answer.fail)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if asker := g.members[m.from]; asker != nil && asker.peer != nil {
		asker.peer.send(answer.encode(kindKeyTell))
	}
}

// String names the operation.
func (o keyOp) String() string {
	switch o {
	case opList:
		return "list"
	case opInstall:
		return "install"
	case opUse:
		return "use"
	case opRemove:
		return "remove"
	case opHold:
		return "hold"
	case opRelease:
		return "release"
	}
	return "unknown"
}
