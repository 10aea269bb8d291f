package vswitch

import (
	"time"

	"golang.org/x/sys/unix"
)

// uptime returns CLOCK_MONOTONIC, which all processes since boot share.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
