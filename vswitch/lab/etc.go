package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"vswitch/vswitch/cluster"
)

// hostName returns the host name of a pod's processes (Kubernetes
// PodSpec.hostname: the pod's name, cut to 63 bytes, if it is not set), or of its
// node if it is in that one's network.
func hostName(p *cluster.Pod) string {
	if p.HostNetwork {
		return p.Node
	}
	if p.Hostname != "" {
		return p.Hostname
	}
	name := p.Name
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// writeEtc writes the files that a pod's processes see in /etc. servers are the
// cluster's name servers.
func writeEtc(dir string, p *cluster.Pod, ips []netip.Addr, domain string, servers []netip.Addr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"hosts":    hostsFile(p, ips, domain),
		"hostname": hostName(p) + "\n",
	}
	machine, _ := os.ReadFile("/etc/resolv.conf") // which it need not have
	if r, ok := resolverOf(p, domain, servers, parseResolver(string(machine))); ok {
		files["resolv.conf"] = r.String()
		if host, err := os.ReadFile("/etc/nsswitch.conf"); err == nil {
			files["nsswitch.conf"] = nsswitchConf(string(host))
		}
	}
	for name, content := range files {
		// In place: running processes see this file through a bind mount.
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostsFile is /etc/hosts in the form of the kubelet
// (pkg/kubelet/kubelet_pods.go, managedHostsFileContent).
func hostsFile(p *cluster.Pod, ips []netip.Addr, domain string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n")
	host := hostName(p)
	names := host
	if p.Subdomain != "" {
		names = fmt.Sprintf("%s.%s.%s.svc.%s\t%s", host, p.Subdomain, p.Namespace, domain, host)
	}
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	if len(p.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
	}
	for _, a := range p.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Names, "\t"))
	}
	return b.String()
}

var hostsLine = regexp.MustCompile(`(?m)^\s*hosts:.*$`)

// nsswitchConf makes the C library ask the pod's files and name servers: the
// modules of the host (resolve, mymachines, mdns) answer for the host.
func nsswitchConf(host string) string {
	const line = "hosts: files dns"
	if hostsLine.MatchString(host) {
		return hostsLine.ReplaceAllString(host, line)
	}
	return strings.TrimRight(host, "\n") + "\n" + line + "\n"
}

// shortName cuts a name to n bytes so that different names stay different.
func shortName(name string, n int) string {
	sum := sha256.Sum256([]byte(name))
	tail := "-" + hex.EncodeToString(sum[:4])
	return name[:n-len(tail)] + tail
}
