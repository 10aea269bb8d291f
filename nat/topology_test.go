package nat

import (
	"net/netip"
	"slices"
	"testing"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube/kubetest"
	"vswitch/vswitch/packet"
)

// TestCasesTopology: which endpoints kube-proxy gives traffic to. Its list of
// all endpoints that it needs anywhere has no counterpart here, nor has its nil
// for a list that nothing uses; and the gate of PreferSameNode is always open.
func TestCasesTopology(t *testing.T) {
	var file struct {
		TopologyCases []struct {
			Name, NodeName             string
			NodeLabels                 map[string]string
			PreferSame                 bool `json:"preferSameTrafficDistribution"`
			ExpectCluster, ExpectLocal []string
			Endpoints                  []struct {
				Endpoint                           string
				Local, Ready, Serving, Terminating bool
				NodeHints, ZoneHints               []string
			}
		}
	}
	kubetest.Cases(t, "kubeproxy-flows.json", &file)
	if len(file.TopologyCases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range file.TopologyCases {
		t.Run(c.Name, func(t *testing.T) {
			self := Self{Name: c.NodeName, Zone: c.NodeLabels[cluster.LabelZone]}
			if self.Name == "" {
				self.Name = "self"
			}
			sl := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Protocol: packet.ProtoTCP, Port: 80}}}
			for _, e := range c.Endpoints {
				node := "other"
				if e.Local {
					node = self.Name
				}
				hints := e.NodeHints
				if !c.PreferSame {
					hints = nil
				}
				sl.Endpoints = append(sl.Endpoints, cluster.Endpoint{
					Addresses: []netip.Addr{netip.MustParseAddrPort(e.Endpoint).Addr()}, Node: node,
					Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating, ForNodes: hints, ForZones: e.ZoneHints,
				})
			}
			port := &cluster.ServicePort{Protocol: packet.ProtoTCP, Port: 80}
			var s Service
			s.assign(endpointsOf(port, cluster.IPv4, []*cluster.EndpointSlice{sl}, &self), &self)
			compare := func(what string, got []Backend, want []string) {
				if want == nil {
					return // the service does not use that list
				}
				names := []string{}
				for i := range got {
					names = append(names, got[i].AddrPort().String())
				}
				if slices.Sort(want); !slices.Equal(names, want) {
					t.Errorf("%s: %v, want %v", what, names, want)
				}
			}
			compare("cluster", s.Cluster, c.ExpectCluster)
			compare("local", s.Local, c.ExpectLocal)
		})
	}
}
