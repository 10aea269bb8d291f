package agent

import (
	"context"
	"encoding/base64"
	"fmt"

	"vswitch/overlay/gossip"
)

// changeKey changes the gossip keyring of all nodes. A rotation is install,
// then use, then remove of the old one.
func (n *Node) changeKey(ctx context.Context, verb, text string) error {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%w: the key is not base64: %v", ErrBadRequest, err)
	}
	var answers []gossip.KeyAnswer
	switch verb {
	case "install":
		answers, err = n.gossip.InstallKey(ctx, key)
	case "use":
		answers, err = n.gossip.UseKey(ctx, key)
	case "remove":
		answers, err = n.gossip.RemoveKey(ctx, key)
	default:
		err = fmt.Errorf("%w: %q is nothing that can be done with a key; use install, use or remove", ErrBadRequest, verb)
	}
	for _, a := range answers {
		n.log.Info("key command", "verb", verb, "on", a.Node, "err", a.Err)
	}
	return err
}
