package cluster

import (
	"cmp"
	"net/netip"
	"time"
)

// ServiceType says how far a service reaches (Kubernetes ServiceType).
type ServiceType string

// Types of services; each but the last includes those before it.
const (
	ServiceClusterIP    ServiceType = "ClusterIP"
	ServiceNodePort     ServiceType = "NodePort"
	ServiceLoadBalancer ServiceType = "LoadBalancer"
	ServiceExternalName ServiceType = "ExternalName"
)

// IPFamily is IPv4 or IPv6, as Kubernetes writes them.
type IPFamily string

// Families.
const (
	IPv4 IPFamily = "IPv4"
	IPv6 IPFamily = "IPv6"
)

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) IPFamily {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// IPFamilyPolicy says how many families a service has.
type IPFamilyPolicy string

// Family policies.
const (
	SingleStack      IPFamilyPolicy = "SingleStack"
	PreferDualStack  IPFamilyPolicy = "PreferDualStack"
	RequireDualStack IPFamilyPolicy = "RequireDualStack"
)

// Distribution is a preference among endpoints (spec.trafficDistribution).
type Distribution string

// Distributions. PreferClose is the older name of PreferSameZone.
const (
	PreferClose    Distribution = "PreferClose"
	PreferSameZone Distribution = "PreferSameZone"
	PreferSameNode Distribution = "PreferSameNode"
)

// Service is a stable address in front of changing pods.
type Service struct {
	Meta
	Type ServiceType `json:"type"`
	// Selector are the labels of the pods behind it; nil: its endpoints are
	// written by somebody else.
	Selector map[string]string `json:"selector,omitempty"`
	Ports    []ServicePort     `json:"ports,omitempty"`
	// Headless services have no cluster IP ("None"): their name leads to the pods.
	Headless bool `json:"headless,omitempty"`
	// ClusterIPs are given or allocated, one per family of IPFamilies, in its order.
	ClusterIPs     []netip.Addr   `json:"clusterIPs,omitempty"`
	IPFamilies     []IPFamily     `json:"ipFamilies,omitempty"`
	IPFamilyPolicy IPFamilyPolicy `json:"ipFamilyPolicy,omitempty"`
	// ExternalName is what the name of an ExternalName service stands for.
	ExternalName string       `json:"externalName,omitempty"`
	ExternalIPs  []netip.Addr `json:"externalIPs,omitempty"`
	// LoadBalancerIP is the address that is asked for; Ingress are those that
	// it has.
	LoadBalancerIP    netip.Addr  `json:"loadBalancerIP,omitzero"`
	LoadBalancerClass string      `json:"loadBalancerClass,omitempty"`
	Ingress           []LBIngress `json:"ingress,omitempty"`
	// SourceRanges are who may use the load balancer's addresses; empty: anybody.
	SourceRanges []netip.Prefix `json:"sourceRanges,omitempty"`
	// NoNodePorts: a load balancer that gets by without node ports
	// (allocateLoadBalancerNodePorts: false).
	NoNodePorts bool `json:"noNodePorts,omitempty"`
	// ExternalLocal and InternalLocal are the traffic policies Local.
	ExternalLocal bool `json:"externalLocal,omitempty"`
	InternalLocal bool `json:"internalLocal,omitempty"`
	// HealthCheckPort is where nodes say whether they have endpoints; 0: nowhere.
	HealthCheckPort uint16 `json:"healthCheckPort,omitempty"`
	// Affinity is how long a client stays with its endpoint after its last
	// connection (sessionAffinity ClientIP); 0: no affinity.
	Affinity        time.Duration `json:"affinity,omitempty"`
	PublishNotReady bool          `json:"publishNotReady,omitempty"`
	Distribution    Distribution  `json:"distribution,omitempty"`
	Conditions      []Condition   `json:"conditions,omitempty"`
}

// NameService is where the cluster's name server is asked, as in Kubernetes'
// clusters.
var NameService = Key{Namespace: "kube-system", Name: "kube-dns"}

// Lacks says what could not be done as the service asks, a sentence each.
func (s *Service) Lacks() (list []string) {
	for _, c := range s.Conditions {
		if !c.True {
			list = append(list, cmp.Or(c.Message, c.Reason))
		}
	}
	return list
}

// ServicePort is one port of a service.
type ServicePort struct {
	Name     string `json:"name,omitempty"`
	Protocol uint8  `json:"protocol"` // packet.ProtoTCP, ProtoUDP or ProtoSCTP
	Port     uint16 `json:"port"`
	// TargetPort is the pods' port, or TargetName the name of their container port.
	TargetPort  uint16 `json:"targetPort,omitempty"`
	TargetName  string `json:"targetName,omitempty"`
	NodePort    uint16 `json:"nodePort,omitempty"`
	AppProtocol string `json:"appProtocol,omitempty"`
}

// LBIngress is an address that a load balancer has for a service.
type LBIngress struct {
	IP       netip.Addr `json:"ip,omitzero"`
	Hostname string     `json:"hostname,omitempty"`
	// Proxy: the balancer delivers to node ports, and packets to IP are not
	// the nodes' (ipMode Proxy).
	Proxy bool `json:"proxy,omitempty"`
}

// Condition is something about an object that is so or is not.
type Condition struct {
	Type    string    `json:"type"`
	True    bool      `json:"true,omitempty"`
	Reason  string    `json:"reason"` // one word
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

// Labels and annotations of services and their endpoints that mean something.
const (
	// LabelServiceName on an EndpointSlice names its service.
	LabelServiceName = "kubernetes.io/service-name"
	// LabelServiceProxy on a Service: it is another proxy's.
	LabelServiceProxy = "service.kubernetes.io/service-proxy-name"
	// LabelHeadless on an EndpointSlice: its service has no address to serve.
	LabelHeadless = "service.kubernetes.io/headless"
	// LabelManagedBy on an EndpointSlice names the controller that writes it.
	LabelManagedBy = "endpointslice.kubernetes.io/managed-by"
	// LabelZone on a Node names its zone.
	LabelZone = "topology.kubernetes.io/zone"
	// AnnotationTrigger on an EndpointSlice or Endpoints is when what last changed
	// them happened (RFC 3339).
	AnnotationTrigger = "endpoints.kubernetes.io/last-change-trigger-time"
)

// EndpointSlice is some of the endpoints of a service, all of one family and
// with the same ports.
type EndpointSlice struct {
	Meta
	// Owner is the object that the slice was made from, a Service or Endpoints,
	// and OwnerUID its UID; empty for one that somebody wrote.
	Owner     Ref            `json:"owner,omitzero"`
	OwnerUID  string         `json:"ownerUID,omitempty"`
	Family    IPFamily       `json:"family"`
	Ports     []EndpointPort `json:"ports,omitempty"`
	Endpoints []Endpoint     `json:"endpoints,omitempty"`
}

// Service returns the key of the slice's service; its name is empty for none.
func (s *EndpointSlice) Service() Key { return Key{s.Namespace, s.Labels[LabelServiceName]} }

// EndpointPort is a port of all endpoints of a slice. Name is the service
// port's. Port 0 stands for a port that is not said, which nothing is sent to.
type EndpointPort struct {
	Name        string `json:"name,omitempty"`
	Protocol    uint8  `json:"protocol"`
	Port        uint16 `json:"port,omitempty"`
	AppProtocol string `json:"appProtocol,omitempty"`
}

// Endpoint is one address behind a service, with conditions as they are after
// their defaults.
type Endpoint struct {
	// Addresses are usually one; only the first gets traffic.
	Addresses   []netip.Addr `json:"addresses"`
	Ready       bool         `json:"ready,omitempty"`
	Serving     bool         `json:"serving,omitempty"`
	Terminating bool         `json:"terminating,omitempty"`
	Hostname    string       `json:"hostname,omitempty"`
	Node        string       `json:"node,omitempty"`
	Zone        string       `json:"zone,omitempty"`
	// Pod is who has the address; zero: no pod of ours.
	Pod    Key    `json:"pod,omitzero"`
	PodUID string `json:"podUID,omitempty"`
	// ForZones and ForNodes are hints: who should use the endpoint.
	ForZones []string `json:"forZones,omitempty"`
	ForNodes []string `json:"forNodes,omitempty"`
}

// Endpoints is the older form of EndpointSlices: all endpoints of the service
// of the same name. Somebody may write it for a service without selector; for
// all others it is made for reading.
type Endpoints struct {
	Meta
	Subsets []EndpointSubset `json:"subsets,omitempty"`
}

// EndpointSubset is every address with every port.
type EndpointSubset struct {
	Ready    []Endpoint     `json:"ready,omitempty"`
	NotReady []Endpoint     `json:"notReady,omitempty"`
	Ports    []EndpointPort `json:"ports,omitempty"`
}

// Probe asks a container how it is.
type Probe struct {
	Handler
	InitialDelay     time.Duration `json:"initialDelay,omitempty"`
	Period           time.Duration `json:"period"`
	Timeout          time.Duration `json:"timeout"`
	SuccessThreshold int           `json:"successThreshold"`
	FailureThreshold int           `json:"failureThreshold"`
	// GracePeriod overrides the pod's when the probe ends it; nil: the pod's.
	GracePeriod *time.Duration `json:"gracePeriod,omitempty"`
}

// Handler is an action on a container: exactly one of its fields is set.
type Handler struct {
	Exec  []string      `json:"exec,omitempty"`
	HTTP  *HTTPGet      `json:"http,omitempty"`
	TCP   *TCPSocket    `json:"tcp,omitempty"`
	GRPC  *GRPC         `json:"grpc,omitempty"`  // probes only
	Sleep time.Duration `json:"sleep,omitempty"` // lifecycle handlers only
}

// GRPC succeeds if the server at a port of the pod says of the service, empty for
// itself, that it is serving (the gRPC Health Checking Protocol).
type GRPC struct {
	Port    uint16 `json:"port,omitempty"`
	Service string `json:"service,omitempty"`
}

// HTTPGet succeeds with a status from 200 to 399.
type HTTPGet struct {
	HTTPS    bool        `json:"https,omitempty"`
	Host     string      `json:"host,omitempty"` // empty: the pod's address
	Port     uint16      `json:"port,omitempty"`
	PortName string      `json:"portName,omitempty"` // instead of Port
	Path     string      `json:"path,omitempty"`
	Headers  [][2]string `json:"headers,omitempty"`
}

// TCPSocket succeeds if the port accepts a connection.
type TCPSocket struct {
	Host     string `json:"host,omitempty"` // empty: the pod's address
	Port     uint16 `json:"port,omitempty"`
	PortName string `json:"portName,omitempty"` // instead of Port
}

// PortRange is the ports from First to Last, both included; the zero one has none.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}
