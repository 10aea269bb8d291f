package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"
)

// Errors of the keyring.
var (
	// ErrNoKeys: the cluster runs without encryption.
	ErrNoKeys = errors.New("gossip is not encrypted; start all nodes with a key to encrypt it")
	// ErrPrimaryKey: the key encrypts at present.
	ErrPrimaryKey = errors.New("the primary key cannot be removed; use another key first")
	// ErrUnknownKey: the key is not installed.
	ErrUnknownKey = errors.New("the key is not installed; install it first")
)

// Fingerprint names a key without telling it.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// keyring is memberlist's ring and its file.
type keyring struct {
	mu   sync.Mutex // one change at a time, with its file
	ring *memberlist.Keyring
	file string
}

// openKeyring returns the ring in file, or one of keys, which is then written
// to file. Without either it returns nil: no encryption.
func openKeyring(keys [][]byte, file string) (*keyring, error) {
	stored, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	fresh := len(stored) == 0
	if !fresh {
		keys = stored
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

// readKeys reads a key file; none is no error.
func readKeys(file string) ([][]byte, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: not base64; write one key a line", file, i+1)
		}
		if memberlist.ValidateKey(k) != nil {
			return nil, fmt.Errorf("%s:%d: key of %d bytes; give 16, 24 or 32", file, i+1, len(k))
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: holds no key; write one key a line in base64, or delete the file", file)
	}
	return keys, nil
}

// save writes the ring to its file, completely or not at all.
func (k *keyring) save() error {
	if k.file == "" {
		return nil
	}
	var b strings.Builder
	for _, key := range k.ring.GetKeys() {
		b.WriteString(base64.StdEncoding.EncodeToString(key))
		b.WriteByte('\n')
	}
	f, err := os.CreateTemp(filepath.Dir(k.file), ".keys-*") // mode 0600
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	_, err = f.WriteString(b.String())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), k.file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("key file: %w", err)
	}
	return nil
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

// do changes the ring and its file.
func (k *keyring) do(op keyOp, key []byte) error {
	if k == nil {
		return ErrNoKeys
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	switch op {
	case opList:
		return nil
	case opInstall:
		err = k.ring.AddKey(bytes.Clone(key))
	case opUse:
		if !k.has(key) {
			return ErrUnknownKey
		}
		err = k.ring.UseKey(key)
	case opRemove:
		err = k.remove(key)
	default:
		return fmt.Errorf("unknown keyring operation %d", op)
	}
	if err != nil {
		return err
	}
	return k.save()
}

func (k *keyring) has(key []byte) bool {
	for _, o := range k.ring.GetKeys() {
		if bytes.Equal(o, key) {
			return true
		}
	}
	return false
}

// remove takes a key off the ring; one that is not on it is no error.
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
	if !k.has(key) {
		return nil
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
