package agent

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	message "github.com/miekg/dns"

	"vswitch/vswitch/netns"
)

// TestDNSPort: a pod of kind dns answers at its addresses what the node's DNS
// server knows, also after the node was restarted. The cluster's side of it is
// tested with a cluster (cmd/vswitch, dns_pods).
func TestDNSPort(t *testing.T) {
	const name = "kube-system/dns"
	l := newLoneWith(t, func(c *Config) {
		c.DNS = DNSConfig{Domain: "corp.example", ClusterOnly: true}
		c.Ports = []PortConfig{{Name: name, PortSpec: PortSpec{Kind: PortDNS}}}
	})
	p := l.named(t, name)
	talk := func() {
		t.Helper()
		for _, ip := range p.IPs {
			if out, err := run(l.pod.NetNS, "ping", "-n", "-c1", "-W30", ip.String()); err != nil {
				t.Errorf("%s: %s", ip, out)
			}
			for _, network := range []string{"udp", "tcp"} {
				for question, want := range map[string]int{
					"dns-version.corp.example.": message.RcodeSuccess, "web.shop.svc.corp.example.": message.RcodeNameError, "example.com.": message.RcodeRefused,
				} {
					if got, err := resolve(l.pod.NetNS, network, netip.AddrPortFrom(ip, dnsPort), question); err != nil || got != want {
						t.Errorf("%s at %s by %s: %s, %v; want %s", question, ip, network, message.RcodeToString[got], err, message.RcodeToString[want])
					}
				}
			}
		}
	}
	talk()
	l.restart(t)
	if again := l.named(t, name); fmt.Sprint(again.IPs, again.MAC) != fmt.Sprint(p.IPs, p.MAC) {
		t.Errorf("after the restart the pod has %v %s, before %v %s", again.IPs, again.MAC, p.IPs, p.MAC)
	}
	talk()
}

// resolve asks for the TXT record of a name from a namespace, and returns the
// response code.
func resolve(ns, network string, at netip.AddrPort, name string) (int, error) {
	var c net.Conn
	err := netns.Do(ns, func() (err error) {
		c, err = net.DialTimeout(network, at.String(), 30*time.Second)
		return err
	})
	if err != nil {
		return 0, err
	}
	conn := &message.Conn{Conn: c}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := conn.WriteMsg(new(message.Msg).SetQuestion(name, message.TypeTXT)); err != nil {
		return 0, err
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return 0, err
	}
	return m.Rcode, nil
}

// TestDNSPortEndsAtOnce: a pod of kind dns is gone at once, also while an upstream
// is waited for, which may take four seconds.
func TestDNSPortEndsAtOnce(t *testing.T) {
	silent := netip.MustParseAddrPort("127.0.0.1:5300")
	l := newLoneWith(t, func(c *Config) {
		c.DNS = DNSConfig{Domain: "corp.example", Upstreams: []netip.AddrPort{silent}}
	})
	var upstream net.PacketConn
	if err := netns.Do(l.ns, func() (err error) {
		upstream, err = net.ListenPacket("udp", silent.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	p := l.node.pod(PodRequest{Namespace: "test", Name: "dns", PortSpec: PortSpec{Kind: PortDNS}})
	asked := make(chan error, 1)
	go func() {
		_, err := resolve(l.pod.NetNS, "tcp", netip.AddrPortFrom(p.IPs[0], dnsPort), "example.com.")
		asked <- err
	}()
	_ = upstream.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, _, err := upstream.ReadFrom(make([]byte, 1500)); err != nil {
		t.Fatalf("the upstream is not asked: %v", err)
	}
	began := time.Now()
	if err := l.node.DetachPod(t.Context(), "test", "dns"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if err := <-asked; err == nil {
		t.Error("the question was answered")
	}
}
