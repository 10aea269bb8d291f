package overlay

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/port"
)

// waiter returns a function that waits until the port may have something to
// read and reports false if that takes too long.
func waiter(t testing.TB, p port.Port) func() bool {
	if n, ok := p.(port.Notifier); ok {
		return bell(n)
	}
	fd := p.(port.Pollable).FD()
	return func() bool { return readable(t, fd, patience) }
}

func readable(t testing.TB, fd int, d time.Duration) bool {
	t.Helper()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(d/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
}
