//go:build !unix && !windows

package nat

import "errors"

// These systems have no memory of their own for us; the heap's has to do.
func mapAnonymous(int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmap([]byte) {}

func adviseHuge([]byte) {}

func giveBack([]byte) bool { return false }

func populate([]byte, int, int) {}
