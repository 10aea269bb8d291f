package porttest

import (
	"time"

	"golang.org/x/sys/unix"
)

// readable polls fd for that long.
func readable(fd int, wait time.Duration) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, int(wait/time.Millisecond))
		if err != unix.EINTR {
			return n > 0
		}
	}
}
