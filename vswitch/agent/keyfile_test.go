package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeyFileMustBeThere: a node that is to encrypt and cannot does not start.
func TestKeyFileMustBeThere(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": " \n", "short": "c2hvcnQ=\n", "text": "?\n", "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ file, want string }{
		{"key", ""},
		{"empty", "holds no key"},
		{"short", "key of 5 bytes"},
		{"text", "line 1: "},
		{"absent", "does not exist; make it with 'vswitch keys generate'"},
	} {
		cfg := Default()
		cfg.Gossip.KeyFile = filepath.Join(dir, c.file)
		switch err := cfg.CheckFiles(); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.file, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "gossip.keyFile: ") || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.file, err, c.want)
		}
	}
	cfg := Default()
	if err := cfg.CheckFiles(); err != nil {
		t.Errorf("without a key file: %v", err)
	}
}
