package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cluster lives in one directory, which is gone when the cluster is. Whoever
// holds the lock file in it owns the directory; a directory whose lock is free
// was left by a crash.

const lockName = "lock"

var nameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// checkName refuses cluster names that make no good directory.
func checkName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("cluster name %q: use at most 40 lower-case letters, digits and dashes", name)
	}
	return nil
}

// baseDir returns the directory that holds one directory a cluster.
func baseDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && ownedByUs(dir) {
		return filepath.Join(dir, "vswitch")
	}
	return "/tmp/vswitch-" + strconv.Itoa(os.Geteuid())
}

func ownedByUs(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == os.Geteuid()
}

// makePrivateDir makes a directory that only we can enter. One that exists
// must be ours: /tmp is open to all, and who owns the directory owns the cluster.
func makePrivateDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !ownedByUs(path) {
		return fmt.Errorf("%s belongs to someone else; remove it, or set XDG_RUNTIME_DIR to a directory of your own", path)
	}
	return os.Chmod(path, 0o700)
}

// runDir is a cluster's directory and its lock.
type runDir struct {
	path string
	lock *os.File
}

// lockPatience is how long a lock that is held may still be that of a cluster
// whose processes the kernel is just ending.
const lockPatience = time.Second

// lockRunDir makes the directory of a cluster if need be and takes its lock.
// What a crashed cluster left in it is removed.
func lockRunDir(name string) (*runDir, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(baseDir(), name)
	for deadline := time.Now().Add(lockPatience); ; {
		if err := makePrivateDir(baseDir()); err != nil {
			return nil, fmt.Errorf("runtime directory: %w", err)
		}
		// Between two steps the last owner may remove what we just made.
		if err := makePrivateDir(path); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("runtime directory: %w", err)
		}
		lock, err := tryLock(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, ErrRunning) && time.Now().Before(deadline) {
			time.Sleep(lockPatience / 50)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", name, err)
		}
		d := &runDir{path, lock}
		if err := d.clean(); err != nil {
			lock.Close()
			return nil, fmt.Errorf("remove what a crashed cluster left: %w", err)
		}
		return d, nil
	}
}

// tryLock takes the lock of a directory. It fails with ErrRunning if someone
// holds it, and with fs.ErrNotExist if it vanished meanwhile.
func tryLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// The lock belongs to the open file, and so to all processes that inherit it.
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) {
			return nil, ErrRunning
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The last owner removes the file before it drops the lock; then ours is
	// the lock of nothing.
	var opened, named unix.Stat_t
	if unix.Fstat(int(f.Fd()), &opened) != nil || unix.Stat(path, &named) != nil || opened.Ino != named.Ino {
		f.Close()
		return nil, fs.ErrNotExist
	}
	return f, nil
}

// clean removes all but the lock.
func (d *runDir) clean() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		// A namespace is a mount on a file, which cannot be removed below it.
		if e.Name() == netnsDir {
			pins, _ := os.ReadDir(filepath.Join(d.path, netnsDir))
			for _, pin := range pins {
				unix.Unmount(filepath.Join(d.path, netnsDir, pin.Name()), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
		}
		if err := os.RemoveAll(filepath.Join(d.path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the directory, and the one above it if that is empty. The
// lock is held to the end.
func (d *runDir) remove() error {
	err := errors.Join(d.clean(), os.Remove(filepath.Join(d.path, lockName)), os.Remove(d.path))
	os.Remove(filepath.Dir(d.path))
	return err
}

// running reports whether someone holds the lock of a directory.
func running(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}

// List returns the names of the user's running clusters, sorted.
func List() ([]string, error) {
	entries, err := os.ReadDir(baseDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && running(filepath.Join(baseDir(), e.Name())) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
