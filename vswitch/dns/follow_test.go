package dns_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
)

// TestFollowCosts: what an endpoint's change costs does not depend on how many there
// are, be it in the cluster or in its service.
func TestFollowCosts(t *testing.T) {
	one := func(slices int) *cluster.State { // a service of so many slices
		var o cluster.Objects
		o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "ns0", Name: "s"}, Headless: true})
		for i := range slices {
			v := &cluster.EndpointSlice{Family: cluster.IPv4}
			v.Namespace, v.Name, v.Labels = "ns0", fmt.Sprint("s-", i), map[string]string{cluster.LabelServiceName: "s"}
			for j := range 100 {
				n := i*100 + j
				v.Endpoints = append(v.Endpoints, cluster.Endpoint{Ready: true, Hostname: fmt.Sprint("h-", n),
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(n>>16), byte(n >> 8), byte(n)})}})
			}
			o.Add(v)
		}
		return o.State()
	}
	for _, k := range []struct {
		name  string
		state *cluster.State
		slice string
	}{{"a large cluster", largeState(), "service-4710-abcde"}, {"a large service", one(1000), "s-500"}} {
		z := zoneOf(t, k.state, largeRanges)
		key := cluster.Key{Namespace: "ns0", Name: k.slice}
		not := *k.state.EndpointSlices.Get(key)
		not.Endpoints = append([]cluster.Endpoint(nil), not.Endpoints...)
		not.Endpoints[5].Ready = false
		other := *k.state
		other.EndpointSlices = k.state.EndpointSlices.With(key, &not)
		there := k.state.Diff(&other)
		var after *dns.Zone
		if n := testing.AllocsPerRun(10, func() { after = z.Follow(&there) }); n > 1000 {
			t.Errorf("%s: %v allocations", k.name, n)
		}
		if after.Endpoints() != z.Endpoints()-1 {
			t.Errorf("%s: %d endpoints, of %d before", k.name, after.Endpoints(), z.Endpoints())
		}
	}
}

// TestFollowHostile: many endpoints that have one address, or one hostname, are
// answered with what fits, and can all go.
func TestFollowHostile(t *testing.T) {
	const count = 50000
	var o cluster.Objects
	o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "s"}, Headless: true})
	for i := range count / 1000 {
		v := &cluster.EndpointSlice{Family: cluster.IPv4}
		v.Namespace, v.Name, v.Labels = "n", fmt.Sprint("s-", i), map[string]string{cluster.LabelServiceName: "s"}
		for j := range 500 {
			n := i*500 + j
			v.Endpoints = append(v.Endpoints,
				cluster.Endpoint{Ready: true, Hostname: fmt.Sprint("h-", n), Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.1")}},
				cluster.Endpoint{Ready: true, Hostname: "twin", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 245, byte(n >> 8), byte(n)})}})
		}
		o.Add(v)
	}
	z := zoneOf(t, o.State(), []netip.Prefix{netip.MustParsePrefix("10.244.0.0/15")})
	if z.Endpoints() != count {
		t.Errorf("%d endpoints", z.Endpoints())
	}
	s := dns.NewServer(z, dns.ServerConfig{})
	for _, q := range []*wire.Msg{question("1.0.244.10.in-addr.arpa.", wire.TypePTR), question("twin.s.n.svc.cluster.local.", wire.TypeA)} {
		for _, datagram := range []bool{true, false} {
			r := s.Reply(t.Context(), q, netip.AddrPort{}, datagram)
			if b, err := r.Pack(); err != nil || !r.Truncated || len(r.Answer) < 5 || datagram && len(b) > 512 {
				t.Errorf("%s: %d answers, %v", q.Question[0].Name, len(r.Answer), err)
			}
		}
	}
	gone := o.State().Diff(&cluster.State{})
	if z = z.Follow(&gone); z.Endpoints() != 0 || z.Services() != 0 {
		t.Errorf("%d endpoints are left", z.Endpoints())
	}
}

// TestFollowRemoves: what many endpoints cost that go at once does not depend on how
// many of them have one address, or one hostname. They are compared with as many of
// which a hundred have these in common. Where each moves all others, it takes ten
// times as long and more.
func TestFollowRemoves(t *testing.T) {
	const count, factor, attempts = 40000, 5, 5
	type common struct{ service, address, host int } // how many have it in common
	removal := func(by common) (*dns.Zone, *cluster.Changes) {
		var o cluster.Objects
		for i := range count {
			service := fmt.Sprint("s-", i/by.service)
			if i%by.service == 0 {
				o.Add(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: service}, Headless: true})
			}
			at := i / by.address
			v := &cluster.EndpointSlice{Family: cluster.IPv4, Endpoints: []cluster.Endpoint{{Ready: true, Hostname: fmt.Sprint("h-", i/by.host),
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(at >> 8), byte(at)})}}}}
			v.Namespace, v.Name, v.Labels = "n", fmt.Sprintf("x-%06d", i), map[string]string{cluster.LabelServiceName: service}
			o.Add(v)
			o.Add(&cluster.Pod{Meta: cluster.Meta{Namespace: "n", Name: v.Name}, IPs: v.Endpoints[0].Addresses})
		}
		without := *o.State()
		without.EndpointSlices = cluster.Table[cluster.EndpointSlice]{}
		without.Pods = cluster.Table[cluster.Pod]{}
		changes := o.State().Diff(&without)
		return zoneOf(t, o.State(), nil), &changes
	}
	took := func(z *dns.Zone, c *cluster.Changes) time.Duration {
		began := time.Now()
		after := z.Follow(c)
		d := time.Since(began)
		if z.Endpoints() != count || after.Endpoints() != 0 {
			t.Fatalf("%d endpoints, and then %d", z.Endpoints(), after.Endpoints())
		}
		return d
	}
	plain, plainGone := removal(common{100, 100, 100})
	for _, k := range []struct {
		name string
		by   common
	}{
		{"one address", common{100, count, 100}},
		{"one hostname", common{count, 100, count}},
	} {
		many, manyGone := removal(k.by)
		// A busy machine may delay some of them.
		var most time.Duration
		least := time.Hour
		for range attempts {
			most = max(most, took(plain, plainGone))
			least = min(least, took(many, manyGone))
			if least < factor*most {
				break
			}
		}
		t.Logf("%s: %v, others %v", k.name, least, most)
		if least >= factor*most {
			t.Errorf("%s: %d endpoints take %v to go, others %v", k.name, count, least, most)
		}
	}
}

// TestServerFollows changes a cluster while it is asked about: every answer is that
// of some state that the cluster has had.
func TestServerFollows(t *testing.T) {
	store := cluster.NewStore()
	w := store.Watch()
	defer w.Close()
	z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", TTL: 5})
	if err != nil {
		t.Fatal(err)
	}
	// Two endpoints are always ready together, or none is.
	put := func(ready bool) {
		err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
			tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "n", Name: "s"}, Headless: true})
			for i := range 2 {
				v := &cluster.EndpointSlice{Family: cluster.IPv4, Endpoints: []cluster.Endpoint{{Ready: ready, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(i)})}}}}
				v.Namespace, v.Name, v.Labels = "n", fmt.Sprint("s-", i), map[string]string{cluster.LabelServiceName: "s"}
				tx.Put(v)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		c := w.Next()
		z = z.Follow(&c)
	}
	put(true)
	s := dns.NewServer(z, dns.ServerConfig{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := s.Reply(t.Context(), question("s.n.svc.cluster.local.", wire.TypeA), netip.AddrPort{}, true)
				if n := len(r.Answer); n == 1 || (n == 0) != (r.Rcode == wire.RcodeNameError) {
					t.Errorf("%v", r)
					return
				}
			}
		})
	}
	for range 2000 {
		put(rand.IntN(2) == 0)
		s.SetZone(z)
	}
	close(stop)
	wg.Wait()
}
