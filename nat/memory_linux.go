package nat

import "golang.org/x/sys/unix"

// Address space is reserved, not memory: no overcommit accounting.
const mapFlags = unix.MAP_ANON | unix.MAP_PRIVATE | unix.MAP_NORESERVE

// adviseHuge asks for huge pages where b is touched from now on. Without them
// it only is slower.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }

// giveBack frees the pages of b, which then read as zero.
func giveBack(b []byte) bool { return unix.Madvise(b, unix.MADV_DONTNEED) == nil }

// populate maps the pages of b between two offsets at once, which is cheaper than
// a fault for each when it is first written. Older kernels cannot, and need not.
func populate(b []byte, from, to int) {
	const page = 4096
	_ = unix.Madvise(b[from/page*page:to], unix.MADV_POPULATE_WRITE)
}
