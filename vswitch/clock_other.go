//go:build !linux

package vswitch

import "time"

// uptime returns a time that every later process finds larger, as long as the
// wall clock is not set back.
func uptime() time.Duration { return time.Duration(time.Now().Unix()) * time.Second }
