package dns_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
)

// records are all that a zone should have: by name and type, in words.
type records map[string]map[string]map[string]bool

func (r records) add(name, qtype, data string) {
	if r[name] == nil {
		r[name] = map[string]map[string]bool{}
	}
	if qtype == "" {
		return
	}
	if r[name][qtype] == nil {
		r[name][qtype] = map[string]bool{}
	}
	r[name][qtype][data] = true
}

func (r records) address(name string, a netip.Addr) {
	if a.Is4() {
		r.add(name, "A", a.String())
	} else {
		r.add(name, "AAAA", a.String())
	}
}

// write lists the records of a cluster as the specification has them: one after
// the other, all of them, from the objects alone.
func write(s *cluster.State) records {
	r := records{}
	for _, n := range []string{"svc", "pod"} {
		r.add(n+".cluster.local.", "", "")
		for ns := range s.Namespaces.All() {
			r.add(ns.Name+"."+n+".cluster.local.", "", "")
		}
	}
	for p := range s.Pods.All() {
		for _, a := range p.IPs {
			r.address(hyphens(a)+"."+p.Namespace+".pod.cluster.local.", a)
		}
	}
	for v := range s.Services.All() {
		name := v.Name + "." + v.Namespace + ".svc.cluster.local."
		if v.Type == cluster.ServiceExternalName {
			r.add(name, "CNAME", v.ExternalName+".")
			continue
		}
		if !v.Headless {
			r.add(name, "", "")
			for _, a := range v.ClusterIPs {
				r.address(name, a)
				reverse, _ := wire.ReverseAddr(a.String())
				r.add(reverse, "PTR", name)
			}
			for _, p := range v.Ports {
				r.port(p.Name, p.Protocol, p.Port, name, name, v.ClusterIPs...)
			}
		}
		for e := range s.EndpointSlices.All() {
			if e.Namespace != v.Namespace || e.Labels[cluster.LabelServiceName] != v.Name {
				continue
			}
			for _, x := range e.Endpoints {
				if !x.Ready && !v.PublishNotReady {
					continue
				}
				a, label := x.Addresses[0], x.Hostname
				if label == "" {
					label = hyphens(a)
				}
				full := label + "." + name
				r.address(full, a)
				reverse, _ := wire.ReverseAddr(a.String())
				r.add(reverse, "PTR", full)
				if v.Headless {
					r.address(name, a)
					for _, p := range e.Ports {
						if p.Port != 0 { // else nobody says where
							r.port(p.Name, p.Protocol, p.Port, name, full, a)
						}
					}
				}
			}
		}
	}
	return r
}

// beside is the pseudo type of what the answer has in the additional section.
const beside = "SRV, beside it"

// port adds a named port, at its own name and at the service's, as CoreDNS does.
func (r records) port(name string, proto uint8, number uint16, service, target string, addrs ...netip.Addr) {
	if name == "" {
		return
	}
	at := "_" + map[uint8]string{6: "tcp", 17: "udp", 132: "sctp"}[proto] + "." + service
	r.add(at, "", "")
	for _, n := range []string{"_" + name + "." + at, service} {
		r.add(n, "SRV", fmt.Sprintf("0 100 %d %s", number, target))
		for _, a := range addrs {
			r.add(n, beside, target+" "+a.String())
		}
	}
}

func hyphens(a netip.Addr) string { return strings.NewReplacer(".", "-", ":", "-").Replace(a.String()) }

// check asks a zone for all that there should be, and for names beside.
func (r records) check(t *testing.T, z *dns.Zone) {
	t.Helper()
	names := map[string]bool{}
	for _, ns := range []string{"a", "b", "c"} {
		for _, name := range []string{"s", "t", "u", "v"} {
			for _, below := range []string{"", "_tcp.", "_udp.", "_sctp.", "_http._tcp.", "_http._udp.", "_dns._udp.", "h.", "g.", "10-244-0-3.", "fd00--4."} {
				names[below+name+"."+ns+".svc.cluster.local."] = true
			}
		}
		for i := range 12 {
			names[fmt.Sprintf("10-244-1-%d.%s.pod.cluster.local.", i, ns)] = true
			names[fmt.Sprintf("%d.0.244.10.in-addr.arpa.", i)] = true
			names[fmt.Sprintf("%d.0.96.10.in-addr.arpa.", i)] = true
		}
	}
	for n := range r {
		names[n] = true
		names["x."+n] = true
		if i := strings.IndexByte(n, '.'); i > 0 {
			names["no-"+n] = true
			names["_"+n] = true
		}
		// What is above a name is there, too.
		for at := n; at != ""; _, at, _ = strings.Cut(at, ".") {
			if strings.HasSuffix(at, ".cluster.local.") || strings.Count(at, ".") > 4 && strings.HasSuffix(at, ".244.10.in-addr.arpa.") {
				names[at] = true
			}
		}
	}
	for n := range names {
		there := r[n] != nil
		for other := range r {
			there = there || strings.HasSuffix(other, "."+n)
		}
		for _, qtype := range []string{"A", "AAAA", "SRV", "PTR", "TXT", "CNAME"} {
			a, ours := z.Answer(dns.Question{Name: n, Type: wire.StringToType[qtype], Size: 65535})
			want := r[n][qtype]
			if cname := r[n]["CNAME"]; len(cname) > 0 {
				want = cname
			}
			got := map[string]bool{}
			for _, rr := range a.Answer {
				if rr.Header().Name == n {
					got[strings.TrimPrefix(rr.String(), rr.Header().String())] = true
				}
			}
			rcode, extra, wantExtra := wire.RcodeNameError, map[string]bool{}, map[string]bool(nil)
			if there {
				rcode = wire.RcodeSuccess
			}
			if qtype == "SRV" {
				wantExtra = r[n][beside]
			}
			for _, rr := range a.Extra {
				extra[rr.Header().Name+" "+strings.TrimPrefix(rr.String(), rr.Header().String())] = true
			}
			switch {
			case !ours:
				t.Errorf("%s %s is not ours", n, qtype)
			case len(want) != len(got) || len(want) > 0 && !reflect.DeepEqual(got, want):
				t.Errorf("%s %s: %v, want %v", n, qtype, got, want)
			case len(a.Answer) != len(got) || len(a.Extra) != len(extra):
				t.Errorf("%s %s: a record is there twice, or of another name: %v, %v", n, qtype, a.Answer, a.Extra)
			case a.Rcode != rcode:
				t.Errorf("%s %s: %s, but it is there: %v", n, qtype, wire.RcodeToString[a.Rcode], there)
			case len(wantExtra) != len(extra) || len(extra) > 0 && !reflect.DeepEqual(extra, wantExtra):
				t.Errorf("%s %s: beside the answer %v, want %v", n, qtype, extra, wantExtra)
			case len(a.Answer) == 0 && len(a.Authority) != 1:
				t.Errorf("%s %s: no SOA", n, qtype)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// TestZoneFollows changes a cluster at random, and compares the zone that has
// followed all of it with what the objects say, and with a zone that has seen
// only the last state.
func TestZoneFollows(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 1))
	store := cluster.NewStore()
	w := store.Watch()
	defer w.Close()
	z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", TTL: 5, Reverse: []netip.Prefix{
		netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00::/16")}})
	if err != nil {
		t.Fatal(err)
	}
	var before *dns.Zone
	var beforeState *cluster.State
	for step := range 400 {
		err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
			for range 1 + r.IntN(4) {
				mutate(r, tx)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c := w.Next()
		z = z.Follow(&c)
		if step%20 != 19 {
			continue
		}
		write(store.State()).check(t, z)
		fresh, _ := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", TTL: 5})
		all := (&cluster.State{}).Diff(store.State())
		if fresh = fresh.Follow(&all); fresh.Endpoints() != z.Endpoints() || fresh.Services() != z.Services() {
			t.Errorf("%d services and %d endpoints; a new zone has %d and %d", z.Services(), z.Endpoints(), fresh.Services(), fresh.Endpoints())
		}
		if before != nil { // an older zone has not changed
			write(beforeState).check(t, before)
		}
		before, beforeState = z, store.State()
		if t.Failed() {
			t.Fatalf("step %d", step)
		}
	}
}

// mutate makes one change.
func mutate(r *rand.Rand, tx *cluster.Txn) {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	ns := pick("a", "b")
	switch r.IntN(10) { // what is in a namespace is there without it
	case 0:
		tx.Put(&cluster.Namespace{Meta: cluster.Meta{Name: ns}})
	case 1:
		tx.Delete(cluster.Ref{Kind: cluster.KindNamespace, Key: cluster.Key{Name: ns}})
	}
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 244, byte(r.IntN(2)), byte(r.IntN(12))}) }
	switch r.IntN(8) {
	case 0:
		tx.Delete(cluster.Ref{Kind: cluster.KindService, Key: cluster.Key{Namespace: ns, Name: pick("s", "t", "u")}})
	case 1:
		tx.Delete(cluster.Ref{Kind: cluster.KindEndpointSlice, Key: cluster.Key{Namespace: ns, Name: pick("1", "2", "3")}})
	case 2:
		p := &cluster.Pod{Meta: cluster.Meta{Namespace: ns, Name: pick("p", "q")}}
		for range r.IntN(2) {
			p.IPs = append(p.IPs, addr())
		}
		tx.Put(p)
	case 3, 4:
		s := &cluster.Service{Meta: cluster.Meta{Namespace: ns, Name: pick("s", "t", "u")}, Type: cluster.ServiceClusterIP}
		switch r.IntN(5) {
		case 0:
			s.Type, s.ExternalName = cluster.ServiceExternalName, "example.test"
		case 1:
			s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(9))}), netip.MustParseAddr("fd00:96::1")}
		default:
			s.Headless = true
		}
		s.PublishNotReady = r.IntN(3) == 0
		for _, n := range []string{"http", "dns", ""} {
			if r.IntN(2) == 0 && s.ExternalName == "" {
				s.Ports = append(s.Ports, cluster.ServicePort{Name: n, Protocol: uint8([]int{6, 17}[r.IntN(2)]), Port: uint16(80 + r.IntN(3))})
			}
		}
		tx.Put(s)
	default:
		v := &cluster.EndpointSlice{Family: cluster.IPv4}
		v.Namespace, v.Name = ns, pick("1", "2", "3")
		v.Labels = map[string]string{cluster.LabelServiceName: pick("s", "t", "u")}
		if r.IntN(2) == 0 {
			v.Ports = []cluster.EndpointPort{{Name: "http", Protocol: 6, Port: []uint16{0, 8080, 8081}[r.IntN(3)]}}
		}
		six := r.IntN(4) == 0
		if six {
			v.Family = cluster.IPv6
		}
		for range r.IntN(6) {
			a := addr()
			if six {
				a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.IntN(9) + 1)})
			}
			v.Endpoints = append(v.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{a}, Ready: r.IntN(4) > 0, Hostname: pick("", "", "h", "g")})
		}
		v.Endpoints = slices.Clip(v.Endpoints)
		tx.Put(v)
	}
}
