package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// containerMounts shows the files of etc in /etc, and the pod's own links in
// /sys. It changes the calling process's mount namespace. Without etc, the
// process sees the host's.
func containerMounts(etc string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate mounts: %w", err)
	}
	if etc == "" {
		return nil
	}
	if err := mountEtc("/etc", etc); err != nil {
		return err
	}
	mountSys()
	// A name service cache of the host would answer in place of the cluster's.
	if _, err := os.Stat("/run/nscd"); err == nil {
		unix.Mount("none", "/run/nscd", "tmpfs", unix.MS_RDONLY, "size=4k")
	}
	return nil
}

// mountEtc binds each file of a directory on that of the same name in etc.
func mountEtc(etc, files string) error {
	entries, err := os.ReadDir(files)
	if err != nil {
		return err
	}
	for _, e := range entries {
		target := filepath.Join(etc, e.Name())
		if _, err := os.Stat(target); err == nil {
			if err := unix.Mount(filepath.Join(files, e.Name()), target, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount on %s: %w", target, err)
			}
			continue
		}
		// There is no file, or a link to none, and we may not make one: lay
		// all of ours over the directory.
		options := "lowerdir=" + files + ":" + etc
		if err := unix.Mount("overlay", etc, "overlay", unix.MS_RDONLY, options); err != nil {
			return fmt.Errorf("%s does not exist and an overlay on %s failed (%w); create an empty file there", target, etc, err)
		}
		return nil
	}
	return nil
}

// mountSys shows the pod's network devices in /sys/class/net. It is not
// possible everywhere, and then programs have to ask netlink, as most do.
func mountSys() {
	cgroup, err := unix.Open("/sys/fs/cgroup", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(cgroup)
	}
	if unix.Mount("sysfs", "/sys", "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "") == nil && err == nil {
		unix.Mount(fmt.Sprintf("/proc/self/fd/%d", cgroup), "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	}
}
