package nat

import (
	"net/netip"
	"slices"
	"unsafe"

	"vswitch/vswitch/packet"
)

// Backend is an endpoint of a service: where a pod listens.
type Backend struct {
	Addr packet.Addr
	Port uint16
	// Local: it is on this node. Placed: somebody says on which node it is.
	Local, Placed bool
	// ID stands for address and port in connections.
	ID uint32
}

// AddrPort returns the backend in the form that people read.
func (b *Backend) AddrPort() netip.AddrPort { return netip.AddrPortFrom(b.Addr.Netip(), b.Port) }

// compare orders backends by address and port.
func (b Backend) compare(c Backend) int {
	if r := slices.Compare(b.Addr[:], c.Addr[:]); r != 0 {
		return r
	}
	return int(b.Port) - int(c.Port)
}

// Service is one port of a service in one family, as one node sees it. It is
// immutable once it is in Services.
type Service struct {
	// Cluster are the backends to choose from where policy is Cluster, in order of
	// address and port.
	Cluster []Backend
	// ID stands for Name in connections and affinities, over restarts too.
	ID uint32
	// Affinity is how many seconds a client keeps its backend after its last
	// connection; 0: no affinity.
	Affinity uint32
	maglev   *maglev // nil: choose at random
	// Local are the backends where policy is Local, in order, too.
	Local []Backend
	// sources are who may use the addresses of a load balancer; nil: everybody.
	sources []netip.Prefix
	// serving are all that take packets of their connections, terminating ones
	// included; leaving are those that no longer serve but are there. In order.
	serving, leaving []Backend
	// why Cluster are those, and Local.
	why, whyLocal Choice
	// Name is "shop/web:http", without the port's name "shop/web".
	Name string
}

// Fate is what became of a backend that a connection was given.
type Fate uint8

// Fates.
const (
	// Gone: nobody is there any more.
	Gone Fate = iota
	// Leaving: it is there, but takes nothing new.
	Leaving
	// Serving: all is well.
	Serving
)

// Fate says what became of the backend at an address and port.
func (s *Service) Fate(addr packet.Addr, port uint16) Fate {
	b := Backend{Addr: addr, Port: port}
	if _, ok := slices.BinarySearchFunc(s.serving, b, Backend.compare); ok {
		return Serving
	}
	if _, ok := slices.BinarySearchFunc(s.leaving, b, Backend.compare); ok {
		return Leaving
	}
	return Gone
}

// FateOf is Fate for a backend of which only the ID is known.
func (s *Service) FateOf(id uint32) Fate {
	is := func(b Backend) bool { return b.ID == id }
	switch {
	case slices.ContainsFunc(s.serving, is):
		return Serving
	case slices.ContainsFunc(s.leaving, is):
		return Leaving
	}
	return Gone
}

// FrontendKind is the kind of address that a service is reached at.
type FrontendKind uint8

// Kinds of frontends.
const (
	ClusterIP FrontendKind = iota
	ExternalIP
	LoadBalancer
	NodePort
)

func (k FrontendKind) String() string {
	return [...]string{"cluster IP", "external IP", "load balancer", "node port"}[k]
}

// Frontend is an address and port, or a port of the nodes, at which a service
// is reached. It is immutable once it is in Services. What a new flow needs of
// the service is here, too: of ten thousand services, few are in a cache.
type Frontend struct {
	key uint32 // protocol and port, where it is in a slot
	// ID is the service's.
	ID   uint32
	Kind FrontendKind
	// Local: the policy that goes with the kind (internalTrafficPolicy for
	// cluster IPs, else externalTrafficPolicy) is Local.
	Local bool
	// Random: any backend will do (Draw). Else Service.Choose or an affinity say.
	Random bool
	// why the backends are those of policy Cluster, and of policy Local.
	why, whyLocal Choice

	backends uint32   // how many are in Service.Cluster
	first    *Backend // of them
	Service  *Service
}

// frontendOf returns a frontend of a service, which is complete.
func frontendOf(s *Service, kind FrontendKind, local bool) *Frontend {
	by := Choice(0)
	switch {
	case s.Affinity != 0:
		by = ByAffinity
	case s.maglev != nil:
		by = ByHash
	}
	return &Frontend{Service: s, ID: s.ID, Kind: kind, Local: local, Random: by == 0, why: by | s.why, whyLocal: by | s.whyLocal,
		backends: uint32(len(s.Cluster)), first: unsafe.SliceData(s.Cluster)}
}

// cluster is Service.Cluster, without a look at the service.
func (f *Frontend) cluster() []Backend { return unsafe.Slice(f.first, f.backends) }

// Origin is who sends to a service.
type Origin uint8

// Origins.
const (
	FromPod     Origin = iota
	FromNode           // this node itself
	FromOutside        // anybody who is no pod
	// FromIngress is a client outside whose packet another node let in, and
	// sent here untouched because it chose a backend of this node.
	FromIngress
)

// Refusal is why a service takes no packet.
type Refusal uint8

// Refusals.
const (
	Accepted Refusal = iota
	// NoEndpoints: there is no backend anywhere. The sender is told.
	NoEndpoints
	// NoLocalEndpoints: policy Local, and all backends are on other nodes.
	NoLocalEndpoints
	// NotInRange: the client is none of those that may use the load balancer.
	NotInRange
)

// Backends returns those that a packet of a client may be given, or why there
// are none. The slice is the frontend's.
//
// Policy Local of external addresses binds clients outside only: pods and
// nodes are inside already, and reach all backends (kube-proxy's short circuit).
func (f *Frontend) Backends(from Origin, client *packet.Addr) ([]Backend, Refusal) {
	if f.Kind == LoadBalancer && f.Service.sources != nil && !f.admits(client) {
		return nil, NotInRange
	}
	list := f.cluster()
	if f.local(from) {
		list = f.Service.Local
	}
	switch {
	case len(list) > 0:
		return list, Accepted
	case f.backends > 0:
		return nil, NoLocalEndpoints
	}
	return nil, NoEndpoints
}

// Choice says which of a service's endpoints the backends are that Backends
// returns, and how one of them is chosen.
type Choice uint8

// Choices: one of which endpoints, perhaps Ending, and how, if not at random.
const (
	OfAll   Choice = iota // all that are ready
	OfZone                // those that hints give to the node's zone
	OfNode                // those that hints give to the node
	OfLocal               // those on the node, as policy is Local
	OfHere                // those on the node, as another one sends the client on to them

	ByAffinity Choice = 1 << 5 // the one that the client has had, if it has had one
	ByHash     Choice = 1 << 6 // all nodes alike (AnnotationBalance)
	Ending     Choice = 1 << 7 // none is ready, but these still serve
)

// Of returns which endpoints those are.
func (c Choice) Of() Choice { return c &^ (ByAffinity | ByHash | Ending) }

// String gives "random", "affinity-zone" or "maglev-local-terminating".
func (c Choice) String() string {
	s := "random"
	switch {
	case c&ByAffinity != 0:
		s = "affinity"
	case c&ByHash != 0:
		s = "maglev"
	}
	if of := int(c.Of()); of <= int(OfHere) {
		s += [...]string{"", "-zone", "-node", "-local", "-local"}[of]
	}
	if c&Ending != 0 {
		s += "-terminating"
	}
	return s
}

// Why says what Backends goes by for a client of that origin, and how one of them
// is chosen.
func (f *Frontend) Why(from Origin) Choice {
	switch {
	case from == FromIngress:
		return OfHere | f.whyLocal
	case f.local(from):
		return OfLocal | f.whyLocal
	}
	return f.why
}

// local reports whether only backends of this node will do.
func (f *Frontend) local(from Origin) bool {
	if from == FromIngress {
		return true
	}
	return f.Local && (f.Kind == ClusterIP || from == FromOutside)
}

func (f *Frontend) admits(src *packet.Addr) bool {
	a := src.Netip()
	return slices.ContainsFunc(f.Service.sources, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Masquerades reports whether a packet that was given a backend must leave with
// this node's own address, so that the answers come back here.
//
// A pod keeps its address on the way to a cluster IP, and with policy Local on
// any, unless it was given itself (hairpin). A client outside keeps it with
// policy Local, where the backend is on this node. The node itself never keeps
// it: which of its addresses it spoke with says nothing.
func (f *Frontend) Masquerades(from Origin, src *packet.Addr, b *Backend) bool {
	if b.Addr == *src || from == FromNode {
		return true
	}
	switch from {
	case FromPod:
		return f.Kind != ClusterIP && !f.Local
	case FromOutside:
		return f.Kind == ClusterIP || !f.Local
	}
	return false
}

// Choose picks one of the backends, which are the service's, for a packet.
// hash is the packet's: any seeded hash of its tuple.
func (s *Service) Choose(from []Backend, t *packet.Tuple, hash uint64) *Backend {
	if s.maglev != nil {
		if b := s.maglev.choose(from, t); b != nil {
			return b
		}
	}
	return Draw(from, hash)
}

// Draw takes one of the backends by any seeded hash of the packet's tuple. With
// some seeds, the hashes of neighboring ports lie close together or in regular
// distances; they are mixed as in SplitMix64, or some backends would be given nobody.
func Draw(from []Backend, hash uint64) *Backend {
	hash = (hash ^ hash>>30) * 0xbf58476d1ce4e5b9
	hash = (hash ^ hash>>27) * 0x94d049bb133111eb
	return &from[(hash>>32)*uint64(len(from))>>32]
}
