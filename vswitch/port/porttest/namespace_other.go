//go:build !linux

package porttest

import "testing"

// Main runs the tests, for TestMain, and returns the exit code.
func Main(m *testing.M) int { return m.Run() }
