//go:build !linux && !darwin && !freebsd

package nat

import "errors"

// These systems have no shared mapping that outlives a process, or no lock
// that does not.
func openBacking(Config) (backing, error) { return backing{}, errors.ErrUnsupported }

func (b *backing) extend(int, int) error { return errors.ErrUnsupported }

func (b *backing) close() error { return nil }

func bootID() string { return "" }
