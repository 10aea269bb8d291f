//go:build linux || darwin || freebsd

package nat

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openBacking opens the file and locks it; what cannot be used is set aside.
func openBacking(cfg Config) (backing, error) {
	var warn error
	for {
		f, err := openLocked(cfg.Path)
		if err != nil {
			return backing{}, err
		}
		bad, err := prepare(f, cfg.BootID)
		if err == nil && bad == nil {
			b, err := mapFile(f, cfg.Max)
			b.warn = warn
			if err != nil {
				f.Close()
			}
			return b, err
		}
		if err == nil {
			if warn != nil { // a fresh file is never bad
				err = bad
			} else {
				warn = fmt.Errorf("conntrack file %s: %w; it was renamed to %s.bad", cfg.Path, bad, cfg.Path)
				err = os.Rename(cfg.Path, cfg.Path+".bad")
			}
		}
		f.Close()
		if err != nil {
			return backing{}, err
		}
	}
}

// openLocked opens the file with a lock that ends with the process.
func openLocked(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrInUse
			}
			return nil, err
		}
		// Somebody may have set it aside between open and lock.
		a, err := f.Stat()
		if err == nil {
			var b os.FileInfo
			if b, err = os.Stat(path); err == nil && os.SameFile(a, b) {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// prepare checks the file's header, or writes that of an empty file. bad says
// why the file cannot be used.
func prepare(f *os.File, boot string) (bad, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	var h header
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))
	if st.Size() == 0 {
		h.fill(boot)
		page := make([]byte, headerSize)
		copy(page, raw)
		_, err = f.WriteAt(page, 0)
		return nil, err
	}
	if _, err := f.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return h.usable(st.Size(), boot), nil
}

// mapFile makes the file large enough, which uses no space yet, and maps it.
func mapFile(f *os.File, size int) (backing, error) {
	var h header
	if _, err := f.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h)), 0); err != nil {
		return backing{}, err
	}
	length := headerSize + max(size, int(h.high.Load()))*entrySize
	st, err := f.Stat()
	if err != nil {
		return backing{}, err
	}
	if st.Size() < int64(length) {
		if err := f.Truncate(int64(length)); err != nil {
			return backing{}, err
		}
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return backing{}, err
	}
	return backing{file: f, mapped: mem, header: (*header)(unsafe.Pointer(unsafe.SliceData(mem)))}, nil
}

// extend gives the entries between two offsets space on the disk, so that
// writing them cannot fail, and then counts them as used.
func (b *backing) extend(from, to int) error {
	if err := allocate(b.file, int64(headerSize+from), int64(to-from)); err != nil {
		return err
	}
	populate(b.mapped, headerSize+from, headerSize+to)
	b.header.high.Store(uint32(to / entrySize))
	return nil
}

// zeroFill is the way to get space that works on every file system. Nothing
// has been written to that part of the file.
func zeroFill(f *os.File, off, n int64) error {
	zero := make([]byte, n)
	_, err := f.WriteAt(zero, off)
	return err
}

func (b *backing) close() error {
	if b.file == nil {
		return nil
	}
	err := unix.Munmap(b.mapped)
	return errors.Join(err, b.file.Close())
}
