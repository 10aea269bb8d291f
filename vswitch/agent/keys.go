package agent

import (
	"context"
	"fmt"

	"vswitch/overlay/gossip"
)

// keys asks all live nodes for their keys. One that did not say is among the
// answers, with the reason.
func (n *Node) keys(ctx context.Context) ([]KeyStatus, error) {
	answers, err := n.gossip.Keys(ctx)
	if len(answers) > 0 {
		err = nil
	}
	return keyStatus(answers), err
}

// changeKey changes the gossip keyring of all live nodes. Unless all of them
// did it, it fails with an error that names the others.
func (n *Node) changeKey(ctx context.Context, verb string, r KeyRequest) ([]KeyStatus, error) {
	var answers []gossip.KeyAnswer
	var err error
	switch verb {
	case "install":
		answers, err = n.gossip.InstallKey(ctx, r.Key)
	case "use":
		answers, err = n.gossip.UseKey(ctx, r.Fingerprint)
	case "remove":
		answers, err = n.gossip.RemoveKey(ctx, r.Fingerprint)
	case "rotate":
		key := r.Key
		if len(key) == 0 {
			key = gossip.NewKey()
		}
		answers, err = n.gossip.RotateKey(ctx, key, r.Force)
	default:
		return nil, fmt.Errorf("%w: %q is nothing that can be done with a key; use install, use, remove or rotate", ErrBadRequest, verb)
	}
	for _, a := range answers {
		n.log.Info("key command", "verb", verb, "on", a.Node, "keys", a.Keys, "err", a.Err)
	}
	return keyStatus(answers), err
}

func keyStatus(answers []gossip.KeyAnswer) []KeyStatus {
	out := make([]KeyStatus, len(answers))
	for i, a := range answers {
		out[i] = KeyStatus{Node: a.Node, Keys: a.Keys, Error: a.Err}
	}
	return out
}
