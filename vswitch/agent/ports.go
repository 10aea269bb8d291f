package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"vswitch/vswitch/port"
)

// Kinds of pods' ports.
const (
	// PortTAP is a TAP device with offloads in the pod's namespace.
	PortTAP = "tap"
	// PortPlainTAP is a TAP device without offloads.
	PortPlainTAP = "tap-plain"
	// PortTUN is an L3 device.
	PortTUN = "tun"
	// PortStream is a machine at a unix stream socket, as QEMU's -netdev stream.
	PortStream = "stream"
	// PortDgram is a machine at a unix datagram socket, as vfkit and QEMU's
	// -netdev dgram.
	PortDgram = "dgram"
	// PortDNS is the node's DNS server, in the node's process.
	PortDNS = "dns"
)

// portKinds are the kinds that a system has.
var portKinds = map[string][]string{
	"linux":   {PortTAP, PortPlainTAP, PortTUN, PortStream, PortDgram, PortDNS},
	"darwin":  {PortPlainTAP, PortTUN, PortStream, PortDgram, PortDNS},
	"windows": {PortPlainTAP, PortTUN, PortStream, PortDNS},
	"freebsd": {PortTUN, PortStream, PortDgram, PortDNS},
}

// redialEvery is how often a machine that listens is tried.
const redialEvery = time.Second

// maxSocketPath is the longest path of a unix socket in bytes: that of Linux
// without its last zero, the others have less.
var maxSocketPath = map[string]int{"linux": 107}

// PortConfig is a pod that the node attaches by itself: a virtual machine, or a
// device that somebody else uses. It keeps its addresses over restarts.
type PortConfig struct {
	// Name is the pod's, NAMESPACE/NAME.
	Name string `json:"name"`
	PortSpec
	// Addresses and Labels are the pod's, as IPs and Labels in PodRequest.
	Addresses []netip.Addr      `json:"addresses,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// request returns what the API would be asked for the port.
func (c *PortConfig) request() PodRequest {
	namespace, name, _ := strings.Cut(c.Name, "/")
	return PodRequest{Namespace: namespace, Name: name, Labels: c.Labels, PortSpec: c.PortSpec, IPs: c.Addresses}
}

// validatePorts finds what is wrong with the ports of a configuration.
func (c *Config) validatePorts(bad func(field, format string, args ...any)) {
	seen := map[string]string{} // what only one port can have -> field
	for i := range c.Ports {
		p := &c.Ports[i]
		field := fmt.Sprintf("ports[%d]", i)
		if namespace, name, ok := strings.Cut(p.Name, "/"); !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			bad(field+".name", "%q is no NAMESPACE/NAME", p.Name)
		}
		r := p.PortSpec
		if err := r.check(runtime.GOOS); err != nil {
			bad(field, "%v", err)
		}
		own := []string{"name " + p.Name}
		for _, path := range []string{r.Socket, r.Remote} {
			if path != "" {
				own = append(own, "socket "+path)
			}
		}
		if r.MAC != "" {
			own = append(own, "mac "+r.MAC)
		}
		for _, a := range p.Addresses {
			own = append(own, "address "+a.String())
		}
		for _, what := range own {
			if other, ok := seen[what]; ok {
				bad(field, "%s is that of %s, too", what, other)
			}
			seen[what] = field
		}
	}
}

// check finds what is wrong with the port that is asked for, on a system, and
// fills in what was left out.
func (r *PortSpec) check(system string) error {
	if r.Kind == "" {
		r.Kind = PortTAP
	}
	kinds := portKinds[system]
	if !slices.Contains(portKinds["linux"], r.Kind) {
		return fmt.Errorf("kind %q is unknown; use %s", r.Kind, anyOf(kinds))
	}
	if !slices.Contains(kinds, r.Kind) {
		return fmt.Errorf("kind %s does not exist on %s; use %s", r.Kind, system, anyOf(kinds))
	}
	if r.MTU != 0 && (r.MTU < 1280 || r.MTU > 65521) {
		return fmt.Errorf("mtu %d is outside 1280..65521", r.MTU)
	}
	if r.MAC != "" {
		mac, err := parseMAC(r.MAC)
		if err != nil {
			return err
		}
		r.MAC = macString(mac)
	}
	if r.Kind == PortStream || r.Kind == PortDgram {
		return r.checkSocket(system)
	}
	if r.Kind == PortDNS {
		if *r != (PortSpec{Kind: PortDNS, MAC: r.MAC, MTU: r.MTU}) {
			return fmt.Errorf("kind %s has nothing but mac and mtu: it is in the node's process", PortDNS)
		}
		return nil
	}
	switch {
	case r.Socket != "" || r.Remote != "" || r.Connect:
		return fmt.Errorf("socket, remote and connect are of no use with kind %s", r.Kind)
	case system == "linux" && r.NetNS == "":
		return fmt.Errorf("netns is needed for kind %s: the path of the pod's network namespace", r.Kind)
	case system != "linux" && r.NetNS != "":
		return fmt.Errorf("netns is of no use: %s has no network namespaces", system)
	case r.Kind == PortTUN && r.MAC != "":
		return errors.New("mac is of no use with kind tun, which has none")
	}
	if r.Interface == "" && system == "linux" {
		r.Interface = "eth0"
	}
	return nil
}

// checkSocket is check for the kinds that are a machine at a socket.
func (r *PortSpec) checkSocket(system string) error {
	switch {
	case r.NetNS != "" || r.Interface != "":
		return fmt.Errorf("netns and interface are of no use with kind %s: the machine has its own", r.Kind)
	case r.Socket == "":
		return fmt.Errorf("socket is needed for kind %s: the path of a unix socket", r.Kind)
	case r.Kind == PortStream && r.Remote != "":
		return errors.New("remote is of no use with kind stream; set connect if the machine listens at socket")
	case r.Kind == PortDgram && r.Connect:
		return errors.New("connect is of no use with kind dgram; give remote, the machine's own socket")
	}
	longest := maxSocketPath[system]
	if longest == 0 {
		longest = 103
	}
	for _, path := range []*string{&r.Socket, &r.Remote} {
		switch {
		case *path == "":
			continue
		case !filepath.IsAbs(*path):
			return fmt.Errorf("socket %s is no absolute path", *path)
		case len(*path) > longest:
			return fmt.Errorf("socket %s has more than %d bytes; choose a shorter path", *path, longest)
		}
		*path = filepath.Clean(*path)
	}
	return nil
}

func anyOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// parseMAC reads the MAC of a pod.
func parseMAC(s string) (mac [6]byte, err error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return mac, fmt.Errorf("mac %q is no address of 6 bytes, such as 52:54:00:12:34:56", s)
	}
	mac = [6]byte(hw)
	if mac[0]&1 != 0 || mac == [6]byte{} {
		return mac, fmt.Errorf("mac %s belongs to no single machine; give one whose first byte is even", s)
	}
	return mac, nil
}

// same reports whether r asks for what p is.
func (p *attachedPod) same(r *PodRequest) bool {
	want := r.PortSpec
	if want.MAC == "" {
		want.MAC = p.MAC
	}
	want.MTU = p.MTU // it may have been set up with another default
	return p.UID == r.UID && p.PortSpec == want
}

// openPort opens the pod's port. Called with mu held.
func (n *Node) openPort(p *attachedPod) (port.Port, error) {
	switch p.Kind {
	case PortStream:
		cfg := port.StreamConfig{Path: p.Socket, MTU: p.MTU, Redial: redialEvery}
		if p.Connect {
			return opened(port.DialStream(cfg))
		}
		return opened(port.ListenStream(cfg))
	case PortDgram:
		return opened(port.OpenDgram(port.DgramConfig{Path: p.Socket, Remote: p.Remote, MTU: p.MTU}))
	case PortDNS:
		return n.openNames(p)
	}
	var dev port.Port
	err := inNamespace(p.NetNS, func() (err error) {
		switch p.Kind {
		case PortTUN:
			dev, err = opened(port.OpenTUN(port.TUNConfig{Name: p.Interface, MTU: p.MTU, HostMAC: p.mac, GatewayMAC: n.gatewayMAC()}))
		case PortPlainTAP:
			dev, err = openPlainTAP(&p.PodStatus)
		default:
			dev, err = openTAP(&p.PodStatus)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("interface %s%s: %w", p.Interface, inside(p.NetNS), err)
	}
	return dev, nil
}

// opened makes a port of a driver, and no port of none.
func opened[P port.Port](p P, err error) (port.Port, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// inside says where a device is, for messages.
func inside(ns string) string {
	if ns == "" {
		return ""
	}
	return " in " + ns
}

// claim finds whether another pod has what only one can have. Called with mu
// held.
func (n *Node) claim(p *attachedPod) error {
	if p.mac == n.gatewayMAC() {
		return fmt.Errorf("%w: mac %s is the gateway's", ErrConflict, p.MAC)
	}
	for name, o := range n.pods {
		if o.mac == p.mac {
			return fmt.Errorf("%w: mac %s is that of pod %s", ErrConflict, p.MAC, name)
		}
		for _, path := range []string{p.Socket, p.Remote} {
			if path != "" && (path == o.Socket || path == o.Remote) {
				return fmt.Errorf("%w: socket %s is that of pod %s", ErrConflict, path, name)
			}
		}
	}
	return nil
}

// attachPorts attaches those of the configuration's ports that are not attached.
// What goes wrong is a problem until it goes right.
func (n *Node) attachPorts() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.pools) == 0 {
		return // they have no addresses yet
	}
	for i := range n.cfg.Ports {
		c := &n.cfg.Ports[i]
		if n.pods[c.Name] != nil {
			continue
		}
		r := c.request()
		if len(r.IPs) == 0 {
			r.IPs = n.leases[c.Name]
		}
		delete(n.leases, c.Name)
		_, err := n.attachPod(r, true)
		if err != nil && len(c.Addresses) == 0 && len(r.IPs) > 0 {
			// Those of the last run are somebody else's by now.
			r.IPs = nil
			_, err = n.attachPod(r, true)
		}
		if err == nil {
			delete(n.portProblems, c.Name)
			continue
		}
		if text := err.Error(); n.portProblems[c.Name] != text {
			n.portProblems[c.Name] = text
			n.log.Warn("a port of the configuration is not attached; it is tried again", "pod", c.Name, "err", err)
		}
	}
}
