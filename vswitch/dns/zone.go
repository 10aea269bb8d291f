package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
	wire "github.com/miekg/dns"

	"vswitch/vswitch/cluster"
)

// DefaultTTL is how many seconds a record may be remembered: CoreDNS' default.
// An endpoint that went is asked for no longer than that.
const DefaultTTL = 5

// ZoneConfig says what a Zone is about.
type ZoneConfig struct {
	// Domain is the cluster's, such as "cluster.local".
	Domain string
	// Reverse are the ranges whose addresses the zone has the names of: those of
	// pods and of services. It answers for no other address.
	Reverse []netip.Prefix
	// NameServers are the server's own addresses, which ns.dns.DOMAIN has. Empty:
	// those of the Service cluster.NameService, if there is one.
	NameServers []netip.Addr
	// TTL of all records, and of the knowledge that there are none, in seconds.
	TTL uint32
}

// Zone is the records of a cluster at one moment: the zone of its domain, and
// the reverse zones of its ranges. It never changes, and all of its methods may
// be called at any time by anybody.
type Zone struct {
	cfg        *zoneConfig
	synced     bool
	serial     uint32
	namespaces cluster.Table[cluster.Namespace]
	podObjects cluster.Table[cluster.Pod]
	services   cluster.Table[service]
	names      *bart.Table[*shared[owner]]       // what has an address: cluster IPs and ready endpoints
	pods       *bart.Table[*shared[cluster.Key]] // pods, by address
	endpoints  int
	generation uint64 // how many Zones came before it
}

// zoneConfig is a ZoneConfig that has been checked.
type zoneConfig struct {
	domain      string // in lower case, with the last dot
	reverse     []netip.Prefix
	nameServers []netip.Addr
	ttl         uint32
}

// NewZone returns a Zone that knows nothing of its cluster yet, and answers
// SERVFAIL to what is asked of it.
func NewZone(cfg ZoneConfig) (*Zone, error) {
	domain := strings.ToLower(strings.TrimSuffix(cfg.Domain, "."))
	if domain == "" {
		return nil, errors.New("the cluster's domain is empty; use a name such as cluster.local")
	}
	// The shortest name of a service needs room in front: "a.b.svc.".
	if !isDomain(domain) || len(domain) > 240 {
		return nil, fmt.Errorf("the cluster's domain %q is not a domain name of letters, digits and hyphens; use one such as cluster.local", cfg.Domain)
	}
	z := &zoneConfig{domain: domain + ".", nameServers: slices.Clone(cfg.NameServers), ttl: cfg.TTL}
	for _, p := range cfg.Reverse {
		if !p.IsValid() || p != p.Masked() {
			return nil, fmt.Errorf("reverse range %s: is not a range such as 10.96.0.0/16", p)
		}
		z.reverse = append(z.reverse, p)
	}
	return &Zone{cfg: z, names: new(bart.Table[*shared[owner]]), pods: new(bart.Table[*shared[cluster.Key]])}, nil
}

// isDomain reports whether a name in lower case, without the last dot, is one of
// labels as hosts have them (RFC 1123), or with underscores, as domains of services do.
func isDomain(name string) bool {
	if _, ok := wire.IsDomainName(name + "."); !ok {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, isNotOfLabel) {
			return false
		}
	}
	return true
}

func isNotOfLabel(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// nameServers are the server's own addresses.
func (z *Zone) nameServers() []netip.Addr {
	if s := z.services.Get(cluster.NameService); len(z.cfg.nameServers) == 0 && s != nil {
		return clusterIPs(s.obj)
	}
	return z.cfg.nameServers
}

// Domain returns the cluster's domain, with the last dot.
func (z *Zone) Domain() string { return z.cfg.domain }

// Services returns the number of services that the zone knows, also of those
// that have no name because nothing is behind them.
func (z *Zone) Services() (n int) {
	for s := range z.services.All() {
		if s.obj != nil {
			n++
		}
	}
	return n
}

// Endpoints returns the number of endpoints that have a name.
func (z *Zone) Endpoints() int { return z.endpoints }

// Synced reports whether the zone knows its cluster.
func (z *Zone) Synced() bool { return z.synced }

// owner is who has an address: a service itself, or one of its endpoints.
type owner struct {
	service *cluster.Key
	slice   string // the slice that names the endpoint; empty: the service itself
	host    string // the endpoint's hostname, if it has one
}

// service is all that the zone knows of a service. It is not changed once it is
// in a Zone.
type service struct {
	key *cluster.Key // the same for all versions of it
	obj *cluster.Service
	// parts are its slices, in order of their names. Slices may be known before
	// their service is.
	parts []*part
	ready [2]int                       // endpoints that have a name, by family
	hosts cluster.Table[shared[place]] // by hostname
}

// part is what the zone takes from an EndpointSlice.
type part struct {
	name   string
	family int
	ports  []cluster.EndpointPort
	ready  []endpoint // those that have a name, each once
	source *cluster.EndpointSlice
}

// endpoint is an address that a name leads to.
type endpoint struct {
	addr netip.Addr
	host string // its hostname, if it has one
}

// place is where an endpoint of a hostname is.
type place struct {
	slice string
	addr  netip.Addr
}

// Families, as indexes.
const (
	v4 = iota
	v6
)

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return v4
	}
	return v6
}

// Kinds of services, as names go.
func (s *service) external() bool { return s.obj.Type == cluster.ServiceExternalName }
func (s *service) headless() bool { return s.obj.Headless && !s.external() }

// exists reports whether there is something at the service's name or below.
func (s *service) exists() bool {
	switch {
	case s == nil || s.obj == nil:
		return false
	case s.external():
		return s.target() != ""
	case s.headless():
		return s.ready[v4]+s.ready[v6] > 0
	}
	return true
}

// target is the name that an ExternalName service stands for, empty where it is
// none: an address is not.
func (s *service) target() string {
	name := strings.ToLower(strings.TrimSuffix(s.obj.ExternalName, "."))
	if _, err := netip.ParseAddr(name); err == nil || name == "" {
		return ""
	}
	if _, ok := wire.IsDomainName(name + "."); !ok {
		return ""
	}
	return name + "."
}

// label is the endpoint's name below its service: its hostname or, as in CoreDNS,
// its address with hyphens.
func (e *endpoint) label() string {
	if e.host != "" {
		return e.host
	}
	return dashed(e.addr)
}

// dashed writes an address with hyphens, of which none is at the end, as no host
// has such a name: fd00:: is fd00--0.
func dashed(a netip.Addr) string {
	label := strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '-'
		}
		return r
	}, a.String())
	if strings.HasSuffix(label, "-") {
		return label + "0"
	}
	return label
}

// undashed returns the address that a label of that form stands for. Several labels
// are none: 10.244.1.2.
func undashed(label string) (a netip.Addr, ok bool) {
	if strings.ContainsAny(label, ".:%") {
		return a, false
	}
	by := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		by = "."
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", by))
	return a, err == nil
}
