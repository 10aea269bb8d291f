//go:build unix

package nat

import (
	"os"
	"syscall"
)

// blocks returns how many bytes of disk a file takes.
func blocks(path string) (int64, bool) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	return int64(st.Sys().(*syscall.Stat_t).Blocks) * 512, true
}
