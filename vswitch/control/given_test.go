package control

import (
	"fmt"
	"testing"

	"vswitch/vswitch/cluster"
)

// TestStatusGiven: what a service takes of the status that it is applied with.
func TestStatusGiven(t *testing.T) {
	from := func(list ...string) func(*cluster.Service) {
		return func(v *cluster.Service) {
			v.Type, v.Ingress = cluster.ServiceLoadBalancer, nil
			for _, a := range addrs(list...) {
				v.Ingress = append(v.Ingress, cluster.LBIngress{IP: a})
			}
		}
	}
	dual := func(v *cluster.Service) { v.IPFamilyPolicy = cluster.PreferDualStack }
	wish := func(v *cluster.Service) { v.LoadBalancerIP = addrs("172.30.0.77")[0] }
	foreign := func(v *cluster.Service) { v.LoadBalancerClass = "other/one" }
	plain := func(v *cluster.Service) { v.Type = cluster.ServiceNodePort }
	c := newController(t, nil)
	for _, tt := range []struct {
		name   string
		change []func(*cluster.Service)
		want   string // "…": some other address of the pool
	}{
		{"a", []func(*cluster.Service){from("172.30.0.9")}, "[172.30.0.9]"},
		{"both", []func(*cluster.Service){from("172.30.0.10", "fd00:10:30::10"), dual}, "[172.30.0.10 fd00:10:30::10]"},
		{"one-family", []func(*cluster.Service){from("fd00:10:30::11", "172.30.0.11")}, "[172.30.0.11]"},
		{"taken", []func(*cluster.Service){from("172.30.0.9")}, "…"},
		{"elsewhere", []func(*cluster.Service){from("86.75.30.9")}, "…"},
		{"network", []func(*cluster.Service){from("172.30.0.0")}, "…"},
		{"asks", []func(*cluster.Service){from("172.30.0.12"), wish}, "[172.30.0.77]"},
		{"a", []func(*cluster.Service){from("172.30.0.13")}, "[172.30.0.9]"}, // it has one
		{"foreign", []func(*cluster.Service){from("86.75.30.9"), foreign}, "[86.75.30.9]"},
		{"foreign", []func(*cluster.Service){from(), foreign}, "[86.75.30.9]"},
		{"foreign", []func(*cluster.Service){from("86.75.30.10"), foreign}, "[86.75.30.10]"},
		{"no-balancer", []func(*cluster.Service){from("172.30.0.14"), plain}, "[]"},
	} {
		apply(t, c, objects(service(tt.name, tt.change...)))
		v := get(c, tt.name)
		got := []string{}
		for _, g := range v.Ingress {
			got = append(got, g.IP.String())
		}
		if tt.want == "…" {
			if len(v.Ingress) != 1 || c.index.claims.poolOf(c.index.claims.balancerIPs, v.Ingress[0].IP) == nil || v.Ingress[0].IP == addrs("172.30.0.9")[0] {
				t.Errorf("%s has %v, want an address of the pool that nobody else has", tt.name, got)
			}
		} else if fmt.Sprint(got) != tt.want {
			t.Errorf("%s has %v, want %s", tt.name, got, tt.want)
		}
		if len(v.Conditions) > 0 {
			t.Errorf("%s: %+v", tt.name, v.Conditions)
		}
	}
}
