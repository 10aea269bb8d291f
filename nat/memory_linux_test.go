package nat

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestAhead: pages are there before anybody uses them, and gone when they have
// been given back.
func TestAhead(t *testing.T) {
	r := mapped(t, 16<<20)
	if unix.Madvise(r.mem[len(r.mem)-unix.Getpagesize():], unix.MADV_POPULATE_WRITE) == unix.EINVAL {
		t.Skip("a kernel before 5.14 cannot populate memory")
	}
	if err := r.ready(1); err != nil {
		t.Fatal(err)
	}
	r.populating.Wait()
	if r.populated != 2*smallStep || present(t, r.mem[:r.populated]) != r.populated {
		t.Errorf("%d bytes are present of %d that should be", present(t, r.mem[:r.populated]), r.populated)
	}
	if err := r.ready(9 << 20); err != nil {
		t.Fatal(err)
	}
	r.populating.Wait()
	if r.populated != 12<<20 || present(t, r.mem[:r.populated]) != r.populated {
		t.Errorf("%d bytes are present of %d that should be", present(t, r.mem[:r.populated]), r.populated)
	}
	r.release(1, 64<<20)
	if r.populated != hugePage || present(t, r.mem[hugePage:12<<20]) != 0 || present(t, r.mem[:hugePage]) != hugePage {
		t.Errorf("%d bytes are present", present(t, r.mem))
	}
}

// present returns how many bytes of b the kernel has pages for.
func present(t *testing.T, b []byte) (n int) {
	t.Helper()
	page := unix.Getpagesize()
	pages := make([]byte, (len(b)+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(unsafe.Pointer(unsafe.SliceData(pages))))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range pages {
		n += int(p&1) * page
	}
	return n
}
