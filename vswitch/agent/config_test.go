package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vswitch/overlay/gossip"
	"vswitch/vswitch/cluster"
)

// TestValidateDirect: every mistake is named with its field, and what is right
// passes.
func TestValidateDirect(t *testing.T) {
	direct := func() Config {
		c := Default()
		c.Name, c.RuntimeDir, c.StateDir = "node1", "/run/x", "/var/x"
		c.Overlay.Mode = modeDirect
		c.Overlay.Listen = netip.MustParseAddrPort("192.0.2.1:8472")
		c.Addresses = addrs("2001:db8::1")
		return c
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // of the error; empty: none
	}{
		{"plain", func(*Config) {}, ""},
		{"IPv4 only", func(c *Config) { c.Addresses, c.ClusterCIDRs = nil, c.ClusterCIDRs[:1] }, ""},
		{"IPv4 pods on IPv6 hosts", func(c *Config) { c.Overlay.Listen = netip.MustParseAddrPort("[2001:db8::1]:0") }, ""},
		{"small MTU", func(c *Config) { c.Overlay.UnderlayMTU = 1280 }, ""},
		{"the node's address of its range", func(c *Config) {
			c.PodCIDRs, c.Uplink.Addresses = prefixes("10.244.1.0/24"), prefixes("10.244.1.0/32")
		}, ""},
		{"loopback", func(c *Config) { c.Overlay.Listen = Default().Overlay.Listen }, "overlay.listen: 127.0.0.1"},
		{"no IPv6 address", func(c *Config) { c.Addresses = nil }, "addresses: pods have IPv6"},
		{"MTU", func(c *Config) { c.Overlay.UnderlayMTU = 1279 }, "overlay.underlayMTU: 1279 is outside 1280..65535"},
		{"device", func(c *Config) { c.Uplink.Device = "a-name-that-is-too-long" }, "uplink.device"},
		{"routes", func(c *Config) { c.Uplink.Routes = "some" }, "uplink.routes: \"some\" is unknown; use all, local or none"},
		{"protocol", func(c *Config) { c.Uplink.RouteProtocol = 4 }, "uplink.routeProtocol: 4 is outside 5..255"},
		{"a pod's address", func(c *Config) { c.Uplink.Addresses = prefixes("10.244.1.5/32") }, "uplink.addresses[0]: 10.244.1.5/32 could become a pod's"},
		{"uplink without direct", func(c *Config) {
			c.Overlay.Mode, c.Uplink.Device = modeVXLAN, "tun7"
		}, "uplink: is of no use with overlay.mode vxlan"},
		{"mode", func(c *Config) { c.Overlay.Mode = "geneve" }, "overlay.mode: \"geneve\" is not a mode; use vxlan or direct"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := direct()
			tt.change(&c)
			err := c.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestValidateServices: mistakes about services and connections are named, too.
func TestValidateServices(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // of the error; empty: none
	}{
		{"plain", func(*Config) {}, ""},
		{"ranges", func(c *Config) { c.Services.CIDRs = prefixes("10.96.0.0/16", "fd00:96::/112") }, ""},
		{"not masked", func(c *Config) { c.Services.CIDRs = prefixes("10.96.0.1/16") }, "services.cidrs[0]: 10.96.0.1/16 has bits set"},
		{"two of a family", func(c *Config) { c.Services.CIDRs = prefixes("10.96.0.0/16", "10.97.0.0/16") }, "services.cidrs[1]: 10.97.0.0/16 is a second range"},
		{"overlap", func(c *Config) { c.Services.CIDRs = prefixes("10.244.7.0/24") }, "services.cidrs[0]: 10.244.7.0/24 overlaps 10.244.0.0/16 of pods"},
		{"established", func(c *Config) { c.Policy.Established = "drop" }, `policy.established: "drop" is unknown; use cut or keep`},
		{"node ports", func(c *Config) { c.Services.NodePorts = cluster.PortRange{First: 2, Last: 1} }, `services.nodePorts: 2 to 1 is not a range`},
		{"client", func(c *Config) { c.Services.ExternalClient = "hide" }, `services.externalClient: "hide" is unknown; use preserve or masquerade`},
		{"DNS", func(c *Config) {
			c.DNS = DNSConfig{Domain: "cluster.local", Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}
		}, ""},
		{"domain", func(c *Config) { c.DNS.Domain = "cluster..local" }, "dns.domain: "},
		{"upstream without port", func(c *Config) {
			c.DNS = DNSConfig{Domain: "cluster.local", Upstreams: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.53"), 0)}}
		}, "dns.upstreams[0]: 192.0.2.53:0 is no address and port, such as 192.0.2.53:53"},
		{"upstreams of nobody", func(c *Config) {
			c.DNS = DNSConfig{Domain: "cluster.local", ClusterOnly: true, Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}
		}, "dns.upstreams: are of no use with clusterOnly"},
		{"a timeout", func(c *Config) { c.Timeouts = map[string]Duration{"tcpEstablished": Duration(time.Hour)} }, ""},
		{"no such timeout", func(c *Config) { c.Timeouts = map[string]Duration{"tcp": 1} }, `timeouts: there is no conntrack timeout "tcp"; there are tcpSynSent, `},
		{"no timeout", func(c *Config) { c.Timeouts = map[string]Duration{"udp": 0} }, "timeouts: conntrack timeout udp: 0s is outside 1s.."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			c.Name, c.RuntimeDir, c.StateDir = "node1", "/run/x", "/var/x"
			tt.change(&c)
			err := c.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if ts, err := c.timeouts(); tt.name == "a timeout" && (err != nil || ts.TCPEstablished != time.Hour) {
				t.Errorf("tcpEstablished is %v, error %v", ts.TCPEstablished, err)
			}
		})
	}
}

// TestValidateNodeCIDRs: ranges of nodes are apart from those of pods and services.
func TestValidateNodeCIDRs(t *testing.T) {
	for _, tt := range []struct{ cidr, want string }{
		{"172.29.0.0/16", ""},
		{"172.29.0.1/16", "nodeCIDRs[0]: 172.29.0.1/16 has bits set behind its prefix; did you mean 172.29.0.0/16?"},
		{"10.0.0.0/8", "nodeCIDRs[0]: 10.0.0.0/8 overlaps 10.244.0.0/16 of pods or services"},
		{"10.96.3.0/24", "nodeCIDRs[0]: 10.96.3.0/24 overlaps 10.96.0.0/16 of pods or services"},
	} {
		c := Default()
		c.Name, c.RuntimeDir, c.StateDir = "node1", "/run/x", "/var/x"
		c.Services.CIDRs, c.NodeCIDRs = prefixes("10.96.0.0/16"), prefixes(tt.cidr)
		if err := c.Validate(); tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s: %v, want %q", tt.cidr, err, tt.want)
		}
	}
}

// TestDirectRoutes: what the host is taught, by who does the rest.
func TestDirectRoutes(t *testing.T) {
	c := Default()
	c.Overlay.Listen = netip.MustParseAddrPort("192.0.2.1:0")
	c.Addresses = addrs("2001:db8::1")
	node := func(underlay string, addresses ...string) *peer {
		return &peer{Node: gossip.Node{PodCIDRs: prefixes("10.244.2.0/24", "fd00:10:244:2::/64"),
			Facts: gossip.Facts{Underlay: netip.MustParseAddrPort(underlay), Addresses: addrs(addresses...)}}}
	}
	const own = "10.244.1.0/24 dev vswitch0 src 192.0.2.1\n"
	for _, tt := range []struct {
		name, routes string
		peer         *peer
		want         string
		wrong        int
	}{
		{"both families", RoutesAll, node("192.0.2.2:0", "2001:db8::2"),
			own + "10.244.2.0/24 via 192.0.2.2 src 192.0.2.1\nfd00:10:244:2::/64 via 2001:db8::2 src 2001:db8::1\n", 0},
		{"IPv4 via IPv6", RoutesAll, node("[2001:db8::2]:0"),
			own + "10.244.2.0/24 via 2001:db8::2 src 192.0.2.1\nfd00:10:244:2::/64 via 2001:db8::2 src 2001:db8::1\n", 0},
		{"no IPv6 address", RoutesAll, node("192.0.2.2:0"), own + "10.244.2.0/24 via 192.0.2.2 src 192.0.2.1\n", 1},
		{"local", RoutesLocal, node("192.0.2.2:0"), own, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := c
			c.Uplink.Routes = tt.routes
			routes, wrong := c.directRoutes(prefixes("10.244.1.0/24"), map[string]*peer{"node2": tt.peer})
			var got strings.Builder
			for _, r := range routes {
				fmt.Fprintln(&got, r, "src", r.Source)
			}
			if got.String() != tt.want || len(wrong) != tt.wrong {
				t.Errorf("got\n%swant\n%s%d problems: %q", got.String(), tt.want, tt.wrong, wrong)
			}
		})
	}
}
