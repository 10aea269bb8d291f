//go:build !linux

package netns

import (
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("network namespaces need Linux: %w", errors.ErrUnsupported)

// New is not supported on this system.
func New(path string) error { return errLinux }

// Delete is not supported on this system.
func Delete(path string) error { return errLinux }

// Do is not supported on this system.
func Do(path string, f func() error) error { return errLinux }

// Configure is not supported on this system.
func Configure(l Link) error { return errLinux }

// SetLink is not supported on this system.
func SetLink(l Link) error { return errLinux }

// Divert is not supported on this system.
func Divert(d Diversion) error { return errLinux }

// SyncRoutes is not supported on this system.
func SyncRoutes(proto int, want []Route) error { return errLinux }

// MayRoute is not supported on this system.
func MayRoute() error { return errLinux }

// Forwards is not supported on this system.
func Forwards(v6 bool) error { return errLinux }
