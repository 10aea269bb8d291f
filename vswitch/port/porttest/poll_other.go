//go:build !linux

package porttest

import "time"

// readable says no: no driver of this system is Pollable.
func readable(int, time.Duration) bool { return false }
