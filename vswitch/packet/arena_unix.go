//go:build unix

package packet

import "golang.org/x/sys/unix"

// arena maps n bytes of zeroed memory that the garbage collector never sees.
func arena(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n)
	}
	return b
}

// release fails for what was not mapped, which is for the garbage collector.
func release(b []byte) { _ = unix.Munmap(b) }
