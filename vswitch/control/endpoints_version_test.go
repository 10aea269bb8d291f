package control

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
)

// TestEndpointsVersionGrows changes services, pods and written slices at random,
// and starts the Controller again now and then: the Endpoints that are made from them
// never go back to an earlier version, and have a later one whenever they differ.
func TestEndpointsVersionGrows(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 5))
		now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
		dir := t.TempDir()
		start := func() *Controller {
			c := newController(t, func(cfg *Config) { cfg.Dir, cfg.Clock = dir, func() time.Time { return now } })
			ready(t, c, "node1", "node2", "node3")
			return c
		}
		c := start()
		last := map[string]*cluster.Endpoints{} // by UID
		for step := range 300 {
			now = now.Add(time.Second)
			what := "start again"
			switch rng.IntN(16) {
			case 0:
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				c = start()
			case 1, 2, 3, 4:
				what = randomSlice(c, rng)
			default:
				what = randomChange(t, c, rng, now)
			}
			for _, e := range AllEndpoints(c.Store().State()) {
				was := last[e.UID]
				last[e.UID] = e
				if was == nil {
					continue
				}
				same := cmp.Equal(was.Subsets, e.Subsets, comparers)
				if e.ResourceVersion < was.ResourceVersion || !same && e.ResourceVersion == was.ResourceVersion {
					t.Fatalf("seed %d step %d, %s: Endpoints %s, of version %d before, are of %d; the same: %v",
						seed, step, what, e.Key(), was.ResourceVersion, e.ResourceVersion, same)
				}
			}
		}
	}
}

// randomSlice writes or deletes a slice of one of the services of randomChange.
func randomSlice(c *Controller, rng *rand.Rand) string {
	v := &cluster.EndpointSlice{Family: cluster.IPv4, Ports: []cluster.EndpointPort{{Name: "n", Protocol: tcp, Port: uint16(80 + rng.IntN(2))}}}
	v.Namespace, v.Name = "x", fmt.Sprint("written", rng.IntN(4))
	v.Labels = map[string]string{cluster.LabelServiceName: fmt.Sprint("s", rng.IntN(3))}
	if rng.IntN(2) == 0 {
		_, err := c.Delete([]cluster.Ref{cluster.RefOf(v)})
		return fmt.Sprintf("delete slice %s: %v", v.Name, err)
	}
	for i := range rng.IntN(3) {
		v.Endpoints = append(v.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}, Ready: true, Serving: true})
	}
	_, err := c.Apply(&cluster.Objects{EndpointSlices: []*cluster.EndpointSlice{v}}, ApplyOptions{})
	return fmt.Sprintf("apply slice %s: %v", v.Name, err)
}

// TestSlicesHaveOwners: a slice names what it was made from and when it last
// changed, as Kubernetes' controllers have it.
func TestSlicesHaveOwners(t *testing.T) {
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	c := newController(t, func(cfg *Config) { cfg.Clock = func() time.Time { return now } })
	one := func() *cluster.EndpointSlice {
		t.Helper()
		for v := range c.Store().State().EndpointSlices.All() {
			return v
		}
		t.Fatal("there is no slice")
		return nil
	}
	check := func(what string, owner cluster.Object, trigger string, more map[string]string) {
		t.Helper()
		o := c.Store().State().Get(cluster.RefOf(owner))
		want := map[string]string{}
		for k, v := range more {
			want[k] = v
		}
		if trigger != "" {
			want["endpoints.kubernetes.io/last-change-trigger-time"] = trigger
		}
		v := one()
		if d := cmp.Diff(want, v.Annotations); v.Owner != cluster.RefOf(o) || v.OwnerUID == "" || v.OwnerUID != o.Metadata().UID || d != "" {
			t.Errorf("%s: the owner is %s %s, the object has the UID %s; annotations (-want +got) %s", what, v.Owner, v.OwnerUID, o.Metadata().UID, d)
		}
	}
	web := service("web", func(v *cluster.Service) { v.Selector = map[string]string{"app": "web"} })
	apply(t, c, objects(web))
	check("without pods", web, "2024-01-01T00:00:00Z", nil)
	now = now.Add(time.Hour)
	apply(t, c, &cluster.Objects{Pods: []*cluster.Pod{{Meta: cluster.Meta{Namespace: "x", Name: "p", Labels: web.Selector}, Node: "node1"}}})
	see(t, c, func(tx *cluster.Txn) {
		tx.Put(running(c.Store().State().Pod(cluster.Key{Namespace: "x", Name: "p"}), now))
	})
	if err := c.Reconcile(); err != nil {
		t.Fatal(err)
	}
	check("with a pod", web, "2024-01-01T01:00:00Z", nil)
	if e := EndpointsOf(c.Store().State(), web.Key()); e.Annotations[cluster.AnnotationTrigger] != "2024-01-01T01:00:00Z" {
		t.Errorf("the Endpoints have the annotations %v", e.Annotations)
	}
	if _, err := c.Delete([]cluster.Ref{cluster.RefOf(web)}); err != nil {
		t.Fatal(err)
	}
	ep := &cluster.Endpoints{Meta: cluster.Meta{Namespace: "x", Name: "db", Annotations: map[string]string{"note": "1", cluster.AnnotationTrigger: "2023-01-01T00:00:00Z"}},
		Subsets: []cluster.EndpointSubset{{Ready: []cluster.Endpoint{{Addresses: addrs("192.0.2.2")}}, Ports: []cluster.EndpointPort{{Protocol: tcp, Port: 5432}}}}}
	apply(t, c, &cluster.Objects{Endpoints: []*cluster.Endpoints{ep}, Services: []*cluster.Service{service("db")}})
	check("mirrored", ep, "", map[string]string{"note": "1"})
	ep.Annotations = map[string]string{"note": "2"}
	apply(t, c, &cluster.Objects{Endpoints: []*cluster.Endpoints{ep}})
	check("mirrored, with another annotation", ep, "", map[string]string{"note": "2"})
}
