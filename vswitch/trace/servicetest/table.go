// Package servicetest reads truth tables of services: a cluster as Kubernetes
// manifests, and what becomes of packets in it. The same tables are run by
// tracing packets through a fabric, and with sockets through a lab; it knows
// neither, and what it gives are addresses and expectations.
//
// A table is a txtar file. Its comment says what it shows, and may have a line
// "options:" with flags of a cluster. The file objects.yaml has services and
// their EndpointSlices; nodes and pods are those of Nodes and Places. The same
// table is read once for each family: $NAME in it is the address of a place.
// The file "rows" has packets and what must become of them, by the rules of
// kube-proxy (pkg/proxy/topology.go and pkg/proxy/nftables/proxier.go of
// Kubernetes 1.37):
//
//	FROM TO PROTO: [snat] ENDPOINT... [~] | reject | drop | pass
//
// FROM is a place; of a client outside, out@nodeN says where it comes in
// (node1). TO is PLACE:PORT, an endpoint PLACE or PLACE:PORT (8080). A cluster
// that masquerades clients outside does what the row says; one that preserves
// their addresses hides no client outside, and ~ says that there, the endpoint's
// node may give it to another of its own.
package servicetest

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Family is a family of addresses: the index of a place's.
type Family int

// The families, and both of them.
const (
	IPv4 Family = iota
	IPv6
)

// Families are both.
var Families = []Family{IPv4, IPv6}

func (f Family) String() string { return []string{"IPv4", "IPv6"}[f] }

// Places are who and what tables speak of, in IPv4 and IPv6: addresses, ranges,
// and the name of the family.
type Places map[string][2]string

// Default are the places of a cluster of Nodes. Pods on nodeN have addresses of
// that node's range. Whoever gives them others says so to With.
func Default() Places {
	return Places{
		"pod": {"10.244.1.9", "fd00:10:244:1::9"}, "pod2": {"10.244.2.9", "fd00:10:244:2::9"},
		"a1": {"10.244.1.11", "fd00:10:244:1::11"}, "a2": {"10.244.1.12", "fd00:10:244:1::12"},
		"b1": {"10.244.2.11", "fd00:10:244:2::11"}, "b2": {"10.244.2.12", "fd00:10:244:2::12"}, "c1": {"10.244.3.11", "fd00:10:244:3::11"},
		"node1": {"172.29.0.1", "fd00:10:29::1"}, "node2": {"172.29.0.2", "fd00:10:29::2"}, "node3": {"172.29.0.3", "fd00:10:29::3"},
		"extra1": {"172.29.1.1", "fd00:10:29::1:1"},
		"vip":    {"10.96.0.10", "fd00:10:96::10"}, "vip2": {"10.96.0.11", "fd00:10:96::11"}, "vip3": {"10.96.0.12", "fd00:10:96::12"},
		"free": {"10.96.0.99", "fd00:10:96::99"},
		"lb":   {"192.0.2.10", "2001:db8:2::10"}, "lb2": {"192.0.2.11", "2001:db8:2::11"},
		"ext": {"203.0.113.10", "2001:db8:3::10"}, "ext2": {"203.0.113.11", "2001:db8:3::11"},
		"out": {"198.51.100.7", "2001:db8:1::7"}, "out2": {"198.51.101.7", "2001:db8:101::7"},
		"outRange": {"198.51.100.0/24", "2001:db8:1::/48"}, "podRange": {"10.244.1.0/24", "fd00:10:244:1::/64"},
		"nodeRange": {"172.29.0.0/16", "fd00:10:29::/64"}, "extraRange": {"172.29.1.0/24", "fd00:10:29::1:0/112"},
		"family": {"IPv4", "IPv6"},
	}
}

// Pods are the places of Places that are pods, and the nodes that they are on.
var Pods = map[string]string{"pod": "node1", "a1": "node1", "a2": "node1", "pod2": "node2", "b1": "node2", "b2": "node2", "c1": "node3"}

// With returns p with some places elsewhere.
func (p Places) With(others Places) Places {
	p = maps.Clone(p)
	maps.Copy(p, others)
	return p
}

// ServiceCIDRs are the ranges that hold the places' cluster IPs, and
// BalancerCIDRs those of load balancers.
var (
	ServiceCIDRs  = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	BalancerCIDRs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:2::/112")}
)

// Nodes are the manifests of the nodes.
const Nodes = `
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {topology.kubernetes.io/zone: a}}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.1}, {type: InternalIP, address: "fd00:10:29::1"}, {type: InternalIP, address: 172.29.1.1}, {type: InternalIP, address: "fd00:10:29::1:1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2, labels: {topology.kubernetes.io/zone: b}}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.2}, {type: InternalIP, address: "fd00:10:29::2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node3, labels: {topology.kubernetes.io/zone: c}}
spec: {podCIDRs: [10.244.3.0/24, "fd00:10:244:3::/64"]}
status: {addresses: [{type: InternalIP, address: 172.29.0.3}, {type: InternalIP, address: "fd00:10:29::3"}]}
---
`

// Table is a cluster's services and what holds there, in one family.
type Table struct {
	Name    string // of the file, without its extension
	File    string // for messages
	Family  Family
	Options Options
	Objects string // Kubernetes YAML
	Rows    []Row
}

// Options are the flags of a cluster that a table is for.
type Options struct {
	MasqueradeAll     bool
	NodePortAddresses []netip.Prefix
}

// Fate is what becomes of a packet.
type Fate int

// What may become of a packet.
const (
	Delivered Fate = iota
	Rejected       // with a reset or an ICMP error
	Dropped        // in silence
	Passed         // services leave it alone; where it ends is another matter
)

// Row is a packet and what must become of it.
type Row struct {
	Text string // as it is written
	// From is a place, and Source its address. At is the node where a client outside
	// comes in; else empty.
	From   string
	Source netip.Addr
	At     string
	To     string // a place
	Target netip.AddrPort
	Proto  string // tcp, udp, sctp or icmp

	Fate Fate
	// Endpoints are all that may be chosen, sorted.
	Endpoints []netip.AddrPort
	// Masqueraded: the endpoint does not see the source, where clients outside are
	// masqueraded. Loose is ~.
	Masqueraded, Loose bool
}

// Outside reports whether the packet is a client's outside.
func (r *Row) Outside() bool { return strings.HasPrefix(r.From, "out") }

// HiddenBy reports whether the endpoint does not see the source, in a cluster
// that masquerades clients outside or not.
func (r *Row) HiddenBy(masquerade bool) bool { return r.Masqueraded && (masquerade || !r.Outside()) }

// Read returns the tables of a directory in one family, in order of name. It
// fails the test if one of them is not understood, or if there is none.
func Read(t testing.TB, dir string, f Family, p Places) []Table {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("read truth tables: %s has none (%v)", dir, err)
	}
	var out []Table
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		table, err := Parse(name, data, f, p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, table)
	}
	return out
}

var variable = regexp.MustCompile(`\$[a-zA-Z0-9]+`)

// Parse reads one table in one family; file is its name.
func Parse(file string, data []byte, f Family, p Places) (Table, error) {
	t := Table{File: file, Name: strings.TrimSuffix(filepath.Base(file), ".txtar"), Family: f}
	var err error
	fail := func(format string, args ...any) (Table, error) {
		return t, fmt.Errorf("%s: "+format, append([]any{file}, args...)...)
	}
	text := variable.ReplaceAllStringFunc(string(data), func(s string) string {
		a, ok := p[s[1:]]
		if !ok && err == nil {
			err = fmt.Errorf("there is no %s", s)
		}
		return `"` + a[f] + `"`
	})
	if err != nil {
		return fail("%w", err)
	}
	a := txtar.Parse([]byte(text))
	for line := range strings.Lines(string(a.Comment)) {
		if options, ok := strings.CutPrefix(strings.TrimSpace(line), "options:"); ok {
			if err := t.Options.parse(options); err != nil {
				return fail("%w", err)
			}
		}
	}
	for _, file := range a.Files {
		switch file.Name {
		case "objects.yaml":
			t.Objects = string(file.Data)
		case "rows":
			for line := range strings.Lines(string(file.Data)) {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				r, err := parseRow(line, f, p)
				if err != nil {
					return fail("%s: %w", line, err)
				}
				t.Rows = append(t.Rows, r)
			}
		default:
			return fail("%s is neither objects.yaml nor rows", file.Name)
		}
	}
	if t.Objects == "" || len(t.Rows) == 0 {
		return fail("a table has objects.yaml and rows")
	}
	return t, nil
}

func (o *Options) parse(flags string) error {
	for _, flag := range strings.Fields(flags) {
		switch name, value, _ := strings.Cut(flag, "="); name {
		case "--masquerade-all":
			o.MasqueradeAll = true
		case "--nodeport-addresses":
			p, err := netip.ParsePrefix(strings.Trim(value, `"`))
			if err != nil {
				return err
			}
			o.NodePortAddresses = append(o.NodePortAddresses, p)
		default:
			return fmt.Errorf("unknown option %s", flag)
		}
	}
	return nil
}

// at reads PLACE or PLACE:PORT.
func (p Places) at(text string, f Family, port uint16) (netip.AddrPort, error) {
	name, number, ported := strings.Cut(text, ":")
	a, err := p.Addr(name, f)
	if err != nil || !ported {
		return netip.AddrPortFrom(a, port), err
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return netip.AddrPortFrom(a, uint16(n)), err
}

// Addr returns the address of a place.
func (p Places) Addr(name string, f Family) (netip.Addr, error) {
	a, ok := p[name]
	if !ok {
		return netip.Addr{}, fmt.Errorf("there is no %q", name)
	}
	return netip.ParseAddr(a[f])
}

func parseRow(line string, f Family, p Places) (r Row, err error) {
	head, want, ok := strings.Cut(line, ": ")
	fields := strings.Fields(head)
	if !ok || len(fields) != 3 {
		return r, fmt.Errorf("is not FROM TO PROTO: FATE")
	}
	r.Text, r.Proto = line, fields[2]
	if !slices.Contains([]string{"tcp", "udp", "sctp", "icmp"}, r.Proto) {
		return r, fmt.Errorf("%q is no protocol", r.Proto)
	}
	r.From, r.At, _ = strings.Cut(fields[0], "@")
	if r.At == "" && r.Outside() {
		r.At = "node1"
	}
	if r.Source, err = p.Addr(r.From, f); err != nil {
		return r, err
	}
	r.To, _, _ = strings.Cut(fields[1], ":")
	if r.Target, err = p.at(fields[1], f, 0); err != nil {
		return r, err
	}
	for _, w := range strings.Fields(want) {
		switch w {
		case "snat":
			r.Masqueraded = true
		case "~":
			r.Loose = true
		case "reject":
			r.Fate = Rejected
		case "drop":
			r.Fate = Dropped
		case "pass":
			r.Fate = Passed
		default:
			e, err := p.at(w, f, 8080)
			if err != nil {
				return r, err
			}
			r.Endpoints = append(r.Endpoints, e)
		}
	}
	if (r.Fate == Delivered) != (len(r.Endpoints) > 0) {
		return r, fmt.Errorf("says neither endpoints nor another fate, or both")
	}
	slices.SortFunc(r.Endpoints, netip.AddrPort.Compare)
	return r, nil
}
