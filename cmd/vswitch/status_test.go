package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/agent"
)

// TestSilentNode: a node whose process hangs takes connections, as its kernel does
// that, and says nothing.
func TestSilentNode(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := agent.NewClient(socket)
	defer a.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := statusOf(ended, a); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait is told: %v", err)
	}
	limit, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if _, err := statusOf(limit, a); err == nil || limit.Err() != nil || !strings.HasPrefix(err.Error(), "it has not answered for ") {
		t.Errorf("who waits is told: %v", err)
	}
}
