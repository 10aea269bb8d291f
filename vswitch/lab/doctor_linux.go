package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
)

const tunDevice = "/dev/net/tun"

// Doctor finds out what a cluster can do on this machine, by doing it.
func Doctor() []Check {
	probe := runProbeProcess()
	checks := []Check{
		kernelCheck(),
		check("user namespaces", true, "a cluster runs without root", probe.find(stepNamespaces)),
		check("network namespaces", true, "every pod has its own", probe.find(stepNetNS)),
		check(tunDevice, true, "it can be opened", asRemedy(checkTUN(tunDevice))),
		check("TAP devices", true, "a pod's interface can be made in its namespace", probe.find(stepTAP)),
		check("TAP offloads", false, "TCP superpackets stay whole inside a node", probe.find(stepOffload)),
		check("TAP UDP offloads", false, "so do UDP superpackets", probe.find(stepUSO)),
		check("pod settings", false, "every user of a pod can ping and listen on low ports", probe.find(stepSettings)),
		check("private /proc", false, "ps in a pod shows the cluster's processes only", probe.find(stepProc)),
		udpCheck(),
		bufferCheck(),
		ipv6Check(),
		idCheck(),
		loopbackCheck(),
		runtimeDirCheck(),
		directCheck(),
	}
	return checks
}

func check(name string, required bool, good string, bad *remedy) Check {
	if bad == nil {
		return Check{Name: name, OK: true, Required: required, Detail: good}
	}
	return Check{Name: name, Required: required, Detail: bad.detail, Fix: bad.fix}
}

func asRemedy(err error) *remedy {
	if err == nil {
		return nil
	}
	if r := (*remedy)(nil); errors.As(err, &r) {
		return r
	}
	return &remedy{detail: err.Error()}
}

// checkMachine finds out at once what Start would stumble over later.
func checkMachine() error { return checkTUN(tunDevice) }

// checkTUN reports whether the device that makes TAPs can be opened.
func checkTUN(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return nil
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return &remedy{tunDevice + " does not exist",
			"load the driver with 'sudo modprobe tun', or give a container '--device " + tunDevice + "'"}
	case errors.Is(err, unix.EACCES):
		mode := "its mode"
		if info, err := os.Stat(path); err == nil {
			mode = fmt.Sprintf("its mode %04o", info.Mode().Perm())
		}
		return &remedy{fmt.Sprintf("%s may not be opened: %s keeps you out", tunDevice, mode),
			"run 'sudo chmod 0666 " + tunDevice + "', which is what distributions ship"}
	case errors.Is(err, unix.EPERM):
		return &remedy{tunDevice + " may not be opened: this container's device rules forbid it",
			"start the container with '--device " + tunDevice + "'"}
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return &remedy{tunDevice + " has no driver", "load it with 'sudo modprobe tun'"}
	}
	return &remedy{detail: err.Error()}
}

// explainNamespaces says why the system refuses namespaces, and what helps.
func explainNamespaces(err error) error {
	sysctl := func(name string) string {
		v, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		return strings.TrimSpace(string(v))
	}
	set := func(name, value string) string {
		return fmt.Sprintf("run 'sudo sysctl -w %s=%s', and put that line into /etc/sysctl.d/ to keep it", name, value)
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		return &remedy{"this kernel has no user namespaces (CONFIG_USER_NS)", "use a kernel that has them, or run as root"}
	case errors.Is(err, unix.ENOSPC):
		return &remedy{"the limit of user namespaces is reached (user.max_user_namespaces=" + sysctl("user.max_user_namespaces") + ")",
			set("user.max_user_namespaces", "15000")}
	case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES):
		return err
	case sysctl("kernel.unprivileged_userns_clone") == "0":
		return &remedy{"the system forbids user namespaces (kernel.unprivileged_userns_clone=0)",
			set("kernel.unprivileged_userns_clone", "1")}
	case sysctl("user.max_user_namespaces") == "0":
		return &remedy{"the system forbids user namespaces (user.max_user_namespaces=0)", set("user.max_user_namespaces", "15000")}
	case sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
		exe, _ := os.Readlink(self)
		return &remedy{"AppArmor keeps user namespaces from having rights (kernel.apparmor_restrict_unprivileged_userns=1, as Ubuntu 24.04 sets it)",
			fmt.Sprintf("allow it to this program with a profile: echo 'abi <abi/4.0>, include <tunables/global> "+
				"profile vswitch %s flags=(unconfined) { userns, }' | sudo tee /etc/apparmor.d/vswitch && sudo apparmor_parser -r /etc/apparmor.d/vswitch; "+
				"or for all programs: %s", exe, set("kernel.apparmor_restrict_unprivileged_userns", "0"))}
	case seccompActive():
		return &remedy{"this container's seccomp profile forbids user namespaces",
			"start the container with '--security-opt seccomp=unconfined --device " + tunDevice + "'"}
	}
	return &remedy{fmt.Sprintf("the system forbids user namespaces (%v)", err), "ask its administrator to allow them, or run as root"}
}

func seccompActive() bool {
	status, _ := os.ReadFile("/proc/self/status")
	return strings.Contains(string(status), "\nSeccomp:\t2\n")
}

func kernelCheck() Check {
	var u unix.Utsname
	unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	c := Check{Name: "kernel", Required: true, OK: kernelAtLeast(release, 5, 0), Detail: "Linux " + release}
	if !c.OK {
		c.Detail += " is too old"
		c.Fix = "use Linux 5.0 or later; 6.2 or later is fastest"
	}
	return c
}

func kernelAtLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

func udpCheck() Check {
	c := Check{Name: "UDP offloads", OK: true, Detail: "one call carries many datagrams between nodes (UDP_SEGMENT, UDP_GRO)"}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Check{Name: c.Name, Detail: err.Error()}
	}
	defer unix.Close(fd)
	if unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1400) != nil || unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) != nil {
		return Check{Name: c.Name, Detail: "every datagram between nodes takes a call of its own", Fix: "use Linux 5.0 or later"}
	}
	return c
}

// wantBuffer is the socket buffer that bulk traffic between nodes likes, bytes.
const wantBuffer = 4 << 20

func bufferCheck() Check {
	value, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	n, _ := strconv.Atoi(strings.TrimSpace(string(value)))
	c := Check{Name: "socket buffers", OK: n >= wantBuffer, Detail: fmt.Sprintf("net.core.rmem_max is %d", n)}
	if err != nil {
		// Containers do not show it; it is the host's.
		return Check{Name: c.Name, OK: true, Detail: "net.core.rmem_max cannot be read here"}
	}
	if !c.OK {
		c.Detail += ": bursts between nodes may be lost, and TCP slows down"
		c.Fix = fmt.Sprintf("run 'sudo sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d'", wantBuffer, wantBuffer)
	}
	return c
}

func ipv6Check() Check {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return Check{Name: "IPv6", Detail: "the kernel has IPv6 switched off: pods cannot have IPv6 addresses",
			Fix: "boot without ipv6.disable=1, or give the cluster IPv4 ranges only (--cluster-cidr 10.244.0.0/16)"}
	}
	return Check{Name: "IPv6", OK: true, Detail: "pods have addresses of both families"}
}

func idCheck() Check {
	c := Check{Name: "subordinate ids", OK: true, Detail: "pods can have several users (runAsUser)"}
	if privileged() || newIDMaps() != nil {
		return c
	}
	c.OK = false
	c.Detail = "there are none for you: a pod with runAsUser is alone with that user, and setuid programs fail"
	c.Fix = fmt.Sprintf("install newuidmap (package uidmap or shadow-utils) and run 'sudo usermod --add-subuids 100000-165535 "+
		"--add-subgids 100000-165535 %s'", userName())
	if noNewPrivileges() {
		c.Fix = "start this program without no_new_privs"
	}
	return c
}

func loopbackCheck() Check {
	u, err := takeUnderlay(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	if err != nil {
		return Check{Name: "loopback addresses", Required: true, Detail: err.Error(), Fix: "set the interface lo up with 127.0.0.1/8"}
	}
	defer u.close()
	c := Check{Name: "loopback addresses", OK: true, Required: true, Detail: "every node has one of its own for VXLAN and gossip"}
	if u.vxlan.Port() != vxlanPort {
		c.Detail += fmt.Sprintf("; someone else has port %d on all of them, so nodes use %d", vxlanPort, u.vxlan.Port())
	}
	return c
}

func runtimeDirCheck() Check {
	base := baseDir()
	c := Check{Name: "runtime directory", OK: true, Required: true, Detail: base}
	_, err := os.Lstat(base)
	existed := err == nil
	if err := makePrivateDir(base); err != nil {
		return Check{Name: c.Name, Required: true, Detail: err.Error(), Fix: "set XDG_RUNTIME_DIR to a directory of your own"}
	}
	if !existed {
		os.Remove(base)
	}
	if longest := filepath.Join(base, strings.Repeat("n", 40), nodesDir, strings.Repeat("n", 21), "node.sock"); len(longest) > 107 {
		c.Detail += ": its path is long; names of clusters and nodes must be short"
	}
	return c
}

// directCheck tells what a node on this host would need to go without
// encapsulation. It is never a failure: all else works without.
func directCheck() Check {
	c := Check{Name: "mode direct", OK: true, Detail: "'vswitch node' may go without encapsulation: it may make routes, and this host forwards"}
	if err := netns.MayRoute(); err != nil {
		c.Detail = "for overlay.mode direct only, " + err.Error() + ": run 'vswitch node' as root or with 'setcap cap_net_admin+ep'"
		return c
	}
	for _, v6 := range []bool{false, true} {
		if err := netns.Forwards(v6); err != nil {
			c.Detail = "for overlay.mode direct only, " + err.Error()
			return c
		}
	}
	return c
}

func userName() string {
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return strconv.Itoa(os.Geteuid())
}

// probeResult says what failed in the namespaces, by step.
type probeResult map[string]probeFailure

type probeFailure struct {
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

func (r probeResult) find(step string) *remedy {
	if f, bad := r[step]; bad {
		return &remedy{f.Detail, f.Fix}
	}
	return nil
}

// runProbeProcess tries in new namespaces what a cluster does there.
func runProbeProcess() probeResult {
	cmd := exec.Command(self, Subcommand, "probe")
	cmd.Args[0] = "vswitch"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if !privileged() {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.Output()
	if err != nil {
		r := asRemedy(explainNamespaces(err))
		return allFailed(probeFailure{r.detail, r.fix})
	}
	result := probeResult{}
	if err := json.Unmarshal(out, &result); err != nil {
		return allFailed(probeFailure{Detail: err.Error()})
	}
	return result
}
