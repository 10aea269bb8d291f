//go:build !linux

// Package netnstest lets tests use network namespaces, on Linux.
package netnstest

import (
	"os"
	"testing"
)

// Main runs the tests.
func Main(m *testing.M) { os.Exit(m.Run()) }

// Need skips the test: this system has no network namespaces.
func Need(t testing.TB) {
	t.Helper()
	t.Skip("network namespaces need Linux")
}
