package gossip

import (
	"net/netip"
	"strings"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*Config)
		want []string // none: valid
	}{
		{"default with a name", func(c *Config) {}, nil},
		{"local timing", func(c *Config) { c.Timing = Local() }, nil},
		{"own ranges without cluster ranges", func(c *Config) { c.ClusterCIDRs, c.PodCIDRs = nil, []netip.Prefix{prefix("10.1.0.0/16")} }, nil},
		{"everything at once", func(c *Config) {
			*c = Config{Keys: [][]byte{{1}}, Join: []netip.AddrPort{{}}, PodCIDRs: []netip.Prefix{prefix("10.1.0.1/16")}}
		}, []string{"name:", "cluster:", "listen:", "join[0]:", "podCIDRs[0]:", "keys[0]: has 1 bytes", "timing.probeInterval:", "timing.forget:"}},
		{"no range at all", func(c *Config) { c.ClusterCIDRs = nil }, []string{"podCIDRs: neither"}},
		{"two ranges of a family", func(c *Config) { c.ClusterCIDRs = append(c.ClusterCIDRs, prefix("10.1.0.0/16")) }, []string{"clusterCIDRs[2]: 10.1.0.0/16 is a second"}},
		{"mask shorter than the cluster range", func(c *Config) { c.NodeMask4 = 8 }, []string{"clusterCIDRs[0]: no ranges of /8"}},
		{"outside", func(c *Config) { c.PodCIDRs = []netip.Prefix{prefix("10.1.0.0/24")} }, []string{"podCIDRs[0]: 10.1.0.0/24 lies outside"}},
		{"overlap", func(c *Config) { c.PodCIDRs = []netip.Prefix{prefix("10.244.0.0/20"), prefix("10.244.1.0/24")} }, []string{"podCIDRs[1]: 10.244.1.0/24 overlaps"}},
		{"unspecified without advertise", func(c *Config) { c.Listen = netip.MustParseAddrPort("0.0.0.0:7946") }, []string{"advertise: is empty"}},
		{"unspecified with underlay", func(c *Config) {
			c.Listen, c.Self.Underlay = netip.MustParseAddrPort("0.0.0.0:7946"), netip.MustParseAddrPort("192.0.2.1:8472")
		}, nil},
		{"name with a space", func(c *Config) { c.Name = "a b" }, []string{`name: "a b"`}},
		{"two addresses of a family", func(c *Config) {
			c.Self.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
		}, []string{"self: addresses[1]"}},
		{"too many ports", func(c *Config) { c.Self.SourcePorts = make([]uint16, 65) }, []string{"self: sourcePorts"}},
		{"slow probe", func(c *Config) { c.Timing.ProbeTimeout = c.Timing.ProbeInterval }, []string{"timing.probeTimeout"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Default()
			c.Name = "n1"
			tc.edit(&c)
			err := c.Validate()
			if (err == nil) != (len(tc.want) == 0) {
				t.Fatal(err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in:\n%v", w, err)
				}
			}
		})
	}
}
