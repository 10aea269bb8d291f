//go:build darwin || freebsd

package nat

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// allocate gives a part of the file space.
func allocate(f *os.File, off, n int64) error { return zeroFill(f, off, n) }

// bootID returns the session of this boot, or when it was.
func bootID() string {
	if id, err := unix.Sysctl("kern.bootsessionuuid"); err == nil && id != "" {
		return id
	}
	tv, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return ""
	}
	return strconv.FormatInt(int64(tv.Sec), 10)
}
