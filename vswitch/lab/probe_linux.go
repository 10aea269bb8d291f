package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/netns"
)

// Steps of the probe, in their order. After one that fails, those that need it
// are not tried, and say so.
const (
	stepNamespaces = "namespaces"
	stepProc       = "proc"
	stepNetNS      = "netns"
	stepTAP        = "tap"
	stepOffload    = "offload"
	stepUSO        = "uso"
	stepSettings   = "settings"
)

var probeSteps = []string{stepNamespaces, stepProc, stepNetNS, stepTAP, stepOffload, stepUSO, stepSettings}

func allFailed(first probeFailure) probeResult {
	r := probeResult{}
	for _, s := range probeSteps {
		r[s] = probeFailure{Detail: "it could not be tried"}
	}
	r[probeSteps[0]] = first
	return r
}

// runProbe is the probe's process, in new user, mount and PID namespaces.
func runProbe() int {
	json.NewEncoder(os.Stdout).Encode(probeNamespaces())
	return 0
}

func probeNamespaces() probeResult {
	fail := func(err error) probeFailure {
		r := asRemedy(err)
		return probeFailure{r.detail, r.fix}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return allFailed(fail(explainNamespaces(err)))
	}
	result := allFailed(probeFailure{})
	delete(result, stepNamespaces)
	delete(result, stepProc)
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		result[stepProc] = probeFailure{Detail: "parts of /proc are hidden here, as in most containers, so pods see the processes of all"}
	}
	dir, err := os.MkdirTemp("", "vswitch-probe-")
	if err != nil {
		result[stepNetNS] = fail(err)
		return result
	}
	defer os.RemoveAll(dir)
	ns := filepath.Join(dir, "netns")
	if err := netns.New(ns); err != nil {
		result[stepNetNS] = fail(err)
		return result
	}
	defer netns.Delete(ns)
	delete(result, stepNetNS)
	err = netns.Do(ns, func() error {
		probeTAP(result)
		return nil
	})
	if err != nil {
		result[stepNetNS] = fail(err)
	}
	return result
}

// Offload bits of TUNSETOFFLOAD (include/uapi/linux/if_tun.h).
const (
	offloadTCP = 0x01 | 0x02 | 0x04 | 0x08 // CSUM, TSO4, TSO6, TSO_ECN
	offloadUSO = 0x20 | 0x40               // USO4, USO6
)

// probeTAP makes a pod's interface in the namespace of this thread.
func probeTAP(result probeResult) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		result[stepTAP] = probeFailure{Detail: tunDevice + " cannot be opened"}
		return
	}
	defer unix.Close(fd)
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], "eth0")
	req.flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		result[stepTAP] = probeFailure{fmt.Sprintf("the kernel refuses to make one: %v", errno),
			"a security module or an old kernel keeps user namespaces from it; run as root, or ask the administrator"}
		return
	}
	delete(result, stepTAP)
	delete(result, stepOffload)
	delete(result, stepUSO)
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP|offloadUSO); err != nil {
		result[stepUSO] = probeFailure{"UDP of pods goes datagram by datagram", "use Linux 6.2 or later"}
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP); err != nil {
			result[stepOffload] = probeFailure{"TCP of pods goes packet by packet, which is slow", "use Linux 5.0 or later"}
		}
	}
	err = netns.Configure(netns.Link{Name: "eth0", MTU: 1450, Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.0.2/24")}})
	if err != nil {
		result[stepTAP] = probeFailure{Detail: "it cannot be configured: " + errors.Unwrap(err).Error()}
		return
	}
	delete(result, stepSettings)
	if v, err := os.ReadFile("/proc/sys/net/ipv4/ping_group_range"); err != nil || strings.HasPrefix(strings.TrimSpace(string(v)), "1\t0") {
		result[stepSettings] = probeFailure{"/proc/sys is read-only here: only root of a pod can ping and listen on ports below 1024",
			"start the container with '--security-opt systempaths=unconfined'"}
	}
}
