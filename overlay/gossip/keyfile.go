package gossip

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/memberlist"
)

// newKeyBytes is the size of keys that are made here: AES-256.
const newKeyBytes = 32

// NewKey draws a key.
func NewKey() []byte {
	key := make([]byte, newKeyBytes)
	_, _ = rand.Read(key) // it never fails (crypto/rand)
	return key
}

// ParseKeys reads keys as a key file holds them: base64 of 16, 24 or 32 bytes,
// one a line; blank lines and those that start with # are skipped. Errors name
// the line, and never show what is in it.
func ParseKeys(text string) ([][]byte, error) {
	var keys [][]byte
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: not base64; write one key a line", i+1)
		}
		if memberlist.ValidateKey(k) != nil {
			return nil, fmt.Errorf("line %d: key of %d bytes; give 16, 24 or 32", i+1, len(k))
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("holds no key; write one key a line in base64")
	}
	return keys, nil
}

// CreateKeyFile draws a key and writes it to a new file that only its owner can
// read. It fails if there is one already: the key in it may be the last copy.
func CreateKeyFile(file string) (key []byte, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	key = NewKey()
	_, err = f.WriteString(keyLines([][]byte{key}))
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(file)
		return nil, fmt.Errorf("key file: %w", err)
	}
	return key, nil
}

// CheckKeyFile returns why a node could not encrypt with the keys in file.
func CheckKeyFile(file string) error {
	_, err := readKeyFile(file)
	return advise(file, err)
}

// advise says what to do about a key file that is nowhere.
func advise(file string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s does not exist; make it with 'vswitch keys generate', the same for all nodes", file)
	}
	return err
}

func readKeyFile(file string) ([][]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	keys, err := ParseKeys(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return keys, nil
}

// writeKeyFile replaces file, completely or not at all.
func writeKeyFile(file string, keys [][]byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".keys-*") // mode 0600
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	_, err = f.WriteString(keyLines(keys))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("key file: %w", err)
	}
	return nil
}

func keyLines(keys [][]byte) string {
	var b strings.Builder
	for _, key := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(key))
		b.WriteByte('\n')
	}
	return b.String()
}
