package port_test

import (
	"os"
	"testing"
)

func removeSocket(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
