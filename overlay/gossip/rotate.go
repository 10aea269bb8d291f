package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"
)

// keyOp is an operation on the keyring, as it is on the wire.
type keyOp uint8

const (
	opList    keyOp = 0
	opInstall keyOp = 1
	opUse     keyOp = 2
	opRemove  keyOp = 3
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
	return g.command(ctx, opList, nil)
}

// InstallKey adds a key to the ring of every live node: they can decrypt with
// it from then on. The first step of a rotation; repeat it until every node
// has answered.
func (g *Gossip) InstallKey(ctx context.Context, key []byte) ([]KeyAnswer, error) {
	if err := memberlist.ValidateKey(key); err != nil {
		return nil, fmt.Errorf("install key: %w", err)
	}
	a, err := g.command(ctx, opInstall, key)
	return a, wrap("install key", err)
}

// UseKey makes every live node encrypt with a key. It is refused unless every
// live node has the key, because one that has not would be cut off.
func (g *Gossip) UseKey(ctx context.Context, key []byte) ([]KeyAnswer, error) {
	name := Fingerprint(key)
	a, err := g.command(ctx, opList, nil)
	if err == nil {
		err = must(a, func(k *KeyAnswer) error {
			if !slices.Contains(k.Keys, name) {
				return ErrUnknownKey
			}
			return nil
		})
	}
	if err != nil {
		return a, wrap("use key "+name, err)
	}
	a, err = g.command(ctx, opUse, key)
	return a, wrap("use key "+name, err)
}

// RemoveKey takes a key off the ring of every live node. It is refused
// (ErrPrimaryKey) while any of them encrypts with it.
func (g *Gossip) RemoveKey(ctx context.Context, key []byte) ([]KeyAnswer, error) {
	name := Fingerprint(key)
	a, err := g.command(ctx, opList, nil)
	if err == nil {
		err = must(a, func(k *KeyAnswer) error {
			if len(k.Keys) > 0 && k.Keys[0] == name {
				return ErrPrimaryKey
			}
			return nil
		})
	}
	if err != nil {
		return a, wrap("remove key "+name, err)
	}
	a, err = g.command(ctx, opRemove, key)
	return a, wrap("remove key "+name, err)
}

// must joins what test says about each answer, with the node's name.
func must(as []KeyAnswer, test func(*KeyAnswer) error) error {
	var errs []error
	for i := range as {
		if err := test(&as[i]); err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", as[i].Node, err))
		}
	}
	return errors.Join(errs...)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// command has every live node, this one included, do op, and collects the
// answers until all are in or ctx ends. The error names the nodes that did not
// do it. Answers are sorted by node.
func (g *Gossip) command(ctx context.Context, op keyOp, key []byte) ([]KeyAnswer, error) {
	if g.ring == nil {
		return nil, ErrNoKeys
	}
	own := KeyAnswer{Node: g.cfg.Name}
	if err := g.ring.do(op, key); err != nil {
		own.Err = err.Error()
	}
	own.Keys = g.ring.fingerprints()
	as := []KeyAnswer{own}

	g.mu.Lock()
	peers := g.peers()
	id, in := g.asks.ask(2 * len(peers))
	defer g.asks.close(id)
	question := (&keyMsg{id: id, from: g.cfg.Name, op: op, key: key}).encode(kindKeyAsk)
	waiting := map[string]bool{}
	for _, p := range peers {
		waiting[p.to.Name] = true
		if !p.send(question) {
			delete(waiting, p.to.Name)
			as = append(as, KeyAnswer{Node: p.to.Name, Err: "cannot be reached"})
		}
	}
	g.mu.Unlock()

	for len(waiting) > 0 {
		select {
		case m := <-in:
			if waiting[m.from] {
				delete(waiting, m.from)
				as = append(as, KeyAnswer{Node: m.from, Err: m.fail, Keys: m.ring})
			}
			continue
		case <-ctx.Done():
		case <-g.done:
		}
		for n := range waiting {
			as = append(as, KeyAnswer{Node: n, Err: "no answer"})
		}
		clear(waiting)
	}
	slices.SortFunc(as, func(a, b KeyAnswer) int { return strings.Compare(a.Node, b.Node) })
	return as, must(as, func(k *KeyAnswer) error {
		if k.Err != "" {
			return errors.New(k.Err)
		}
		return nil
	})
}

// obey does what another node's command says and answers it.
func (g *Gossip) obey(m *keyMsg) {
	answer := &keyMsg{id: m.id, from: g.cfg.Name, op: m.op}
	if err := g.ring.do(m.op, m.key); err != nil {
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
	}
	return "unknown"
}
