package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/memberlist"
)

// Errors of the keyring.
var (
	// ErrNoKeys: the cluster runs without encryption.
	ErrNoKeys = errors.New("gossip is not encrypted; start all nodes with a key to encrypt it")
	// ErrKeySize: AES has no such keys.
	ErrKeySize = errors.New("a key has 16, 24 or 32 bytes")
	// ErrPrimaryKey: the key encrypts at present.
	ErrPrimaryKey = errors.New("the primary key cannot be removed; use another key first")
	// ErrUnknownKey: the key is not installed.
	ErrUnknownKey = errors.New("the key is not installed")
	// ErrNodeDown: a node would miss a rotation, or misses the rest of it.
	ErrNodeDown = errors.New("it is down, and would be refused with its old key when it comes back")
)

// Fingerprint names a key without telling it: 16 hexadecimal digits.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// keyring is memberlist's ring and its file.
type keyring struct {
	mu   sync.Mutex // one change at a time, with its file
	ring *memberlist.Keyring
	file string
	held hold
}

// openKeyring returns the ring in file, or one of keys, which is then written
// to file. Without either it returns nil: no encryption. A file that is named
// and is nowhere is an error, not a reason to speak in the clear.
func openKeyring(keys [][]byte, file string) (*keyring, error) {
	fresh := true
	if file != "" {
		stored, err := readKeyFile(file)
		switch {
		case err == nil:
			keys, fresh = stored, false
		case len(keys) == 0 || !errors.Is(err, os.ErrNotExist):
			return nil, advise(file, err)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	own := make([][]byte, len(keys))
	for i, k := range keys {
		own[i] = bytes.Clone(k)
	}
	ring, err := memberlist.NewKeyring(own[1:], own[0])
	if err != nil {
		return nil, err
	}
	k := &keyring{ring: ring, file: file}
	if fresh {
		return k, k.save()
	}
	return k, nil
}

// save writes the ring to its file, if it has one.
func (k *keyring) save() error {
	if k.file == "" {
		return nil
	}
	return writeKeyFile(k.file, k.ring.GetKeys())
}

// fingerprints names the keys, the primary one first. A nil ring has none.
func (k *keyring) fingerprints() []string {
	if k == nil {
		return nil
	}
	keys := k.ring.GetKeys()
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = Fingerprint(key)
	}
	return out
}

// find returns the key of a fingerprint, or nil.
func (k *keyring) find(fingerprint string) []byte {
	for _, key := range k.ring.GetKeys() {
		if Fingerprint(key) == fingerprint {
			return key
		}
	}
	return nil
}

// do changes the ring and its file. The argument is a key to install, the
// fingerprint of one to use or remove, or the node to hold the ring for while it
// rotates keys: only the first has to tell a secret.
func (k *keyring) do(op keyOp, arg string) error {
	if k == nil {
		return ErrNoKeys
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	switch op {
	case opList:
		return nil
	case opHold:
		return k.held.take(arg)
	case opRelease:
		k.held.release(arg)
		return nil
	case opInstall:
		err = k.ring.AddKey([]byte(arg))
	case opUse:
		key := k.find(arg)
		if key == nil {
			return ErrUnknownKey
		}
		err = k.ring.UseKey(key)
	case opRemove:
		key := k.find(arg)
		if key == nil {
			return nil // as it is wanted
		}
		err = k.remove(key)
	default:
		return fmt.Errorf("unknown keyring operation %d", op)
	}
	if err != nil {
		return err
	}
	return k.save()
}

// remove takes a key off the ring.
//
// memberlist's RemoveKey closes the gap in the slice that concurrent
// decryption is reading. Removing the last key closes no gap, so the key is
// brought to the end first: whatever becomes primary moves to the front, and
// the primary key goes back there last. A packet that is sent in between is encrypted with
// another installed key.
func (k *keyring) remove(key []byte) error {
	keys := k.ring.GetKeys()
	if bytes.Equal(keys[0], key) {
		return ErrPrimaryKey
	}
	if !bytes.Equal(keys[len(keys)-1], key) {
		for _, other := range keys {
			if !bytes.Equal(other, key) {
				if err := k.ring.UseKey(other); err != nil {
					return err
				}
			}
		}
		if err := k.ring.UseKey(keys[0]); err != nil {
			return err
		}
	}
	return k.ring.RemoveKey(key)
}
