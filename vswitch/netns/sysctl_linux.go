package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Settings are written where /proc/sys allows it. A container may have it
// mounted read-only; then the pod works but for ping and low ports of users
// other than root, which is no reason to refuse it.

// openUnprivileged lets every user of the namespace ping and listen on ports
// below 1024, as container runtimes do.
func openUnprivileged() error {
	if err := sysctl("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
		return err
	}
	// The range is one of group ids of the namespace's user namespace, so its
	// end must be one that is mapped there.
	err := sysctl("net/ipv4/ping_group_range", "0\t2147483647")
	if errors.Is(err, unix.EINVAL) {
		err = sysctl("net/ipv4/ping_group_range", "0\t"+strconv.FormatUint(lastMappedGroup(), 10))
	}
	return err
}

// prepareIPv6 makes the link's IPv6 addresses static and usable at once. If
// wanted is set, a kernel without IPv6 is an error.
func prepareIPv6(link string, wanted bool) error {
	dir := "net/ipv6/conf/" + link + "/"
	if _, err := os.Stat("/proc/sys/" + dir); err != nil {
		if wanted {
			return fmt.Errorf("the kernel has IPv6 switched off; boot without ipv6.disable=1 or give pods IPv4 addresses only")
		}
		return nil
	}
	settings := [][2]string{
		{"accept_ra", "0"}, {"autoconf", "0"}, {"router_solicitations", "0"},
		{"accept_dad", "0"}, {"dad_transmits", "0"},
	}
	if wanted {
		settings = append(settings, [2]string{"disable_ipv6", "0"})
	}
	for _, s := range settings {
		if err := sysctl(dir+s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// sysctl writes a setting of the thread's network namespace if it has another
// value. It is no error where it does not exist or is read-only.
func sysctl(name, value string) error {
	if readSysctl(name) == value {
		return nil
	}
	// Without O_CREATE, which /proc answers with EACCES even where nothing is.
	f, err := os.OpenFile("/proc/sys/"+name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", strings.ReplaceAll(name, "/", "."), err)
	}
	return nil
}

// readSysctl returns a setting without its newline, empty if it cannot be read.
func readSysctl(name string) string {
	value, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// lastMappedGroup returns the end of the range of group ids, mapped in our user
// namespace, that starts with 0.
func lastMappedGroup() uint64 {
	data, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return 0
	}
	end := uint64(0) // first id after the range so far
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(f[0], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && first == end {
			end += count
		}
	}
	return max(end, 1) - 1
}
