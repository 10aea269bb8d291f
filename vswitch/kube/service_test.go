package kube

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube/kubetest"
)

// bareServices are services and their endpoints for bare.
func bareServices(meta func(ns, name string) cluster.Meta) ([]*cluster.Service, []*cluster.EndpointSlice, []*cluster.Endpoints) {
	addr := netip.MustParseAddr
	at := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	services := []*cluster.Service{
		{Meta: meta("shop", "all"), Type: cluster.ServiceLoadBalancer, Selector: map[string]string{"app": "web"},
			Ports: []cluster.ServicePort{
				{Name: "http", Protocol: 6, Port: 80, TargetName: "web", NodePort: 30080, AppProtocol: "kubernetes.io/h2c"},
				{Name: "dns", Protocol: 17, Port: 53, TargetPort: 5353, NodePort: 30080},
				{Name: "s", Protocol: 132, Port: 9, TargetPort: 9}},
			ClusterIPs: []netip.Addr{addr("fd00::10"), addr("10.96.0.10")}, IPFamilies: []cluster.IPFamily{cluster.IPv6, cluster.IPv4},
			IPFamilyPolicy: cluster.PreferDualStack, ExternalIPs: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")},
			LoadBalancerIP: addr("203.0.113.5"), LoadBalancerClass: "example.com/lb",
			Ingress:      []cluster.LBIngress{{IP: addr("203.0.113.5")}, {IP: addr("203.0.113.6"), Proxy: true}, {Hostname: "lb.example.com"}},
			SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			NoNodePorts:  true, ExternalLocal: true, InternalLocal: true, HealthCheckPort: 30123, Affinity: time.Hour, PublishNotReady: true,
			Distribution: cluster.PreferSameNode, Conditions: []cluster.Condition{{Type: "LoadBalancerPortsError", True: true, Reason: "Taken", Message: "m", Since: at}}},
		{Meta: meta("shop", "headless"), Type: cluster.ServiceClusterIP, Headless: true, IPFamilies: []cluster.IPFamily{cluster.IPv4}, IPFamilyPolicy: cluster.SingleStack},
		{Meta: meta("shop", "name"), Type: cluster.ServiceExternalName, ExternalName: "db.example.com."},
	}
	endpointPorts := []cluster.EndpointPort{{Name: "http", Protocol: 6, Port: 8080, AppProtocol: "http"}, {Name: "dns", Protocol: 17, Port: 5353}}
	slices := []*cluster.EndpointSlice{
		{Meta: meta("shop", "all-1"), Family: cluster.IPv6, Ports: append(endpointPorts[:2:2], cluster.EndpointPort{Protocol: 6}), Endpoints: []cluster.Endpoint{
			{Addresses: []netip.Addr{addr("fd00::5"), addr("fd00::6")}, Ready: true, Serving: true, Hostname: "h", Node: "n1", Zone: "z",
				Pod: cluster.Key{Namespace: "shop", Name: "web"}, PodUID: "6f1d", ForZones: []string{"z", "y"}, ForNodes: []string{"n1"}},
			{Addresses: []netip.Addr{addr("fd00::7")}, Serving: true, Terminating: true},
			{Addresses: []netip.Addr{addr("fd00::8")}}}},
	}
	slices[0].Labels[cluster.LabelServiceName] = "all"
	endpoints := []*cluster.Endpoints{{Meta: meta("shop", "old"), Subsets: []cluster.EndpointSubset{
		{Ports: endpointPorts,
			Ready: []cluster.Endpoint{{Addresses: []netip.Addr{addr("10.1.1.1")}, Ready: true, Serving: true, Hostname: "h", Node: "n1",
				Pod: cluster.Key{Namespace: "shop", Name: "web"}, PodUID: "6f1d"}},
			NotReady: []cluster.Endpoint{{Addresses: []netip.Addr{addr("10.1.1.2")}}}},
	}}}
	return services, slices, endpoints
}

// TestEncodeAllocated reads a service as people write it, allocates for it, and
// finds all of it in the output, as kubectl get service -o yaml shows it.
func TestEncodeAllocated(t *testing.T) {
	o, _, err := Parse("x", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  selector: {app: web}\n  externalTrafficPolicy: Local\n  ports: [{port: 80}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	v := *o.Services[0]
	v.UID, v.ResourceVersion, v.Created = "u-1", 7, time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	v.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::10")}
	v.IPFamilies, v.IPFamilyPolicy = []cluster.IPFamily{cluster.IPv4, cluster.IPv6}, cluster.RequireDualStack
	v.Ports = []cluster.ServicePort{v.Ports[0]}
	v.Ports[0].NodePort, v.HealthCheckPort = 30080, 30999
	v.Ingress = []cluster.LBIngress{{IP: netip.MustParseAddr("203.0.113.1")}}
	data, err := Encode(&v, YAML)
	if err != nil {
		t.Fatal(err)
	}
	want := `apiVersion: v1
kind: Service
metadata:
  creationTimestamp: "2024-01-02T03:04:05Z"
  name: web
  namespace: default
  resourceVersion: "7"
  uid: u-1
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.96.0.10
  clusterIPs:
  - 10.96.0.10
  - fd00::10
  externalTrafficPolicy: Local
  healthCheckNodePort: 30999
  internalTrafficPolicy: Cluster
  ipFamilies:
  - IPv4
  - IPv6
  ipFamilyPolicy: RequireDualStack
  ports:
  - nodePort: 30080
    port: 80
    protocol: TCP
    targetPort: 80
  selector:
    app: web
  sessionAffinity: None
  type: LoadBalancer
status:
  loadBalancer:
    ingress:
    - ip: 203.0.113.1
      ipMode: VIP
`
	if string(data) != want {
		t.Errorf("got\n%s\nwant\n%s", data, want)
	}
	if len(o.Services[0].ClusterIPs) != 0 {
		t.Error("Encode changed what was read")
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", " 203.0.113.0/25": "203.0.113.0/25", "\t10.1.2.3/8\n": "10.0.0.0/8", "010.000.1.0/024": "10.0.1.0/24",
		"0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0", "2001:db8::1/32": "2001:db8::/32", "::ffff:10.01.0.0/104": "10.0.0.0/8",
		"10.0.0.0": "", "10.0.0.0/33": "", "10.0.0.0/-1": "", "10.0.0/8": "", "": "", "/": "", "10..0.0/8": "", "fe80::1%eth0/64": "",
		"2001:0db8::/32": "2001:db8::/32", "::ffff:10.0.0.0/8": "", "10.0.0.0/8/8": "", "256.0.0.0/8": "", "a.b.c.d/8": "",
	} {
		p, ok := parseRange(text)
		if ok != (want != "") || ok && p.String() != want {
			t.Errorf("parseRange(%q) = %s, %t; want %s", text, p, ok, want)
		}
	}
}

// TestServicePolicies: what fields and annotations of each type of service
// mean.
func TestServicePolicies(t *testing.T) {
	for _, test := range []struct {
		name, spec, annotations string
		want                    cluster.Service
	}{
		{"cluster ip", "", "", cluster.Service{Type: cluster.ServiceClusterIP}},
		{"only local", "type: NodePort", `service.beta.kubernetes.io/external-traffic: OnlyLocal`, cluster.Service{Type: cluster.ServiceNodePort, ExternalLocal: true}},
		{"only local, alpha", "type: NodePort", `service.alpha.kubernetes.io/external-traffic: OnlyLocal`, cluster.Service{Type: cluster.ServiceNodePort, ExternalLocal: true}},
		{"global", "type: NodePort", `service.beta.kubernetes.io/external-traffic: Global`, cluster.Service{Type: cluster.ServiceNodePort}},
		{"as the talk has it", "type: LoadBalancer", `service.beta.kubernetes.io/external-traffic: OnlyLocal, service.beta.kubernetes.io/healthcheck-nodeport: "30123"`,
			cluster.Service{Type: cluster.ServiceLoadBalancer, ExternalLocal: true, HealthCheckPort: 30123}},
		{"the field wins", "type: LoadBalancer, externalTrafficPolicy: Cluster", `service.beta.kubernetes.io/external-traffic: OnlyLocal, service.beta.kubernetes.io/healthcheck-nodeport: "30123"`,
			cluster.Service{Type: cluster.ServiceLoadBalancer}},
		{"affinity", "sessionAffinity: ClientIP", "", cluster.Service{Type: cluster.ServiceClusterIP, Affinity: 3 * time.Hour}},
		{"no affinity", "sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}", "", cluster.Service{Type: cluster.ServiceClusterIP}},
		{"no health check", "type: LoadBalancer, healthCheckNodePort: 30000", "", cluster.Service{Type: cluster.ServiceLoadBalancer}},
		{"no node ports", "type: LoadBalancer, allocateLoadBalancerNodePorts: false", "", cluster.Service{Type: cluster.ServiceLoadBalancer, NoNodePorts: true}},
		{"empty selector", "selector: {}", "", cluster.Service{Type: cluster.ServiceClusterIP}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, _, err := Parse("x", []byte("{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {"+test.annotations+"}}, spec: {ports: [{port: 80}], "+test.spec+"}}"))
			if err != nil {
				t.Fatal(err)
			}
			got := o.Services[0]
			if got.Type != test.want.Type || got.ExternalLocal != test.want.ExternalLocal || got.HealthCheckPort != test.want.HealthCheckPort ||
				got.Affinity != test.want.Affinity || got.NoNodePorts != test.want.NoNodePorts || got.Selector != nil || got.ClusterIPs != nil || got.IPFamilies != nil {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestConditionDefaults: what a condition is that is not given.
func TestConditionDefaults(t *testing.T) {
	o, warnings, err := Parse("x", []byte(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
endpoints:
- addresses: [10.1.1.1]
- {addresses: [10.1.1.2], conditions: {ready: false}}
- {addresses: [10.1.1.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.1.4], deprecatedTopology: {a: b}, targetRef: {kind: Pod, name: p}}
- {addresses: [10.1.1.5], targetRef: {kind: VirtualMachine, name: p}}
ports: [{port: 80}, {name: a, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: names}
addressType: FQDN
endpoints: [{addresses: [a.example.com]}]
`))
	if err != nil || len(o.EndpointSlices) != 2 || len(warnings) != 1 {
		t.Fatal(o, warnings, err)
	}
	if out, err := Encode(o.EndpointSlices[1], YAML); err != nil || !strings.Contains(string(out), "a.example.com") || o.EndpointSlices[1].Endpoints != nil {
		t.Errorf("names are not kept as they are: %s, %v", out, err)
	}
	s := o.EndpointSlices[0]
	for i, want := range [][3]bool{{true, true, false}, {false, true, false}, {false, true, true}} {
		if e := s.Endpoints[i]; [3]bool{e.Ready, e.Serving, e.Terminating} != want {
			t.Errorf("%s: %+v", e.Addresses[0], e)
		}
	}
	if p := s.Endpoints[3].Pod; p.String() != "default/p" || s.Endpoints[4].Pod.Name != "" {
		t.Errorf("targets: %s, %s", p, s.Endpoints[4].Pod)
	}
	if s.Ports[0] != (cluster.EndpointPort{Protocol: 6, Port: 80}) || s.Ports[1] != (cluster.EndpointPort{Name: "a", Protocol: 17}) {
		t.Errorf("ports: %+v", s.Ports)
	}
}

// TestKubeProxyObjects reads the services and slices of kube-proxy's own tests.
func TestKubeProxyObjects(t *testing.T) {
	var cases struct {
		Groups []struct {
			ID      string
			Objects []json.RawMessage
		}
	}
	kubetest.Cases(t, "kubeproxy-flows.json", &cases)
	if len(cases.Groups) == 0 {
		t.Fatal("no groups")
	}
	for _, g := range cases.Groups {
		t.Run(g.ID, func(t *testing.T) {
			list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": g.Objects})
			if err != nil {
				t.Fatal(err)
			}
			o, warnings, err := Parse(g.ID, list)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range warnings {
				if !strings.Contains(w.Message, "healthCheckNodePort has no effect") {
					t.Errorf("%s", w)
				}
			}
			if o.Len() != len(g.Objects) {
				t.Errorf("%d of %d objects", o.Len(), len(g.Objects))
			}
			roundTrip(t, o)
		})
	}
}

// roundTrip writes objects and reads them again.
func roundTrip(t *testing.T, o *Objects) {
	t.Helper()
	list, err := EncodeList(nouns(o), YAML)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Parse("again", list)
	if err != nil {
		t.Fatalf("what was written is refused: %v\n%s", err, list)
	}
	a, err := json.Marshal(withoutSource(o))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(withoutSource(again))
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Errorf("read back:\n%s\nfrom\n%s", b, a)
	}
}

func withoutSource(o *Objects) *Objects {
	clearSource(o)
	return o
}

// TestServiceManifestIsKept: fields that the noun does not have come back.
func TestServiceManifestIsKept(t *testing.T) {
	o, _, err := Parse("x", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: a, finalizers: [example.com/f], annotations: {b: c}}\nspec: {type: LoadBalancer, loadBalancerIP: pool-a, ports: [{port: 80}], loadBalancerSourceRanges: [' 010.0.0.1/8']}\n"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := Encode(o.Services[0], YAML)
	if err != nil {
		t.Fatal(err)
	}
	var v corev1.Service
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Finalizers) != 1 || v.Annotations["b"] != "c" || v.Spec.LoadBalancerIP != "pool-a" || v.Spec.LoadBalancerSourceRanges[0] != " 010.0.0.1/8" {
		t.Errorf("%s", data)
	}
	if p := o.Services[0].SourceRanges; len(p) != 1 || p[0].String() != "10.0.0.0/8" {
		t.Errorf("source ranges: %v", p)
	}
}

// TestOwnedSlice: a slice that was made of something says so as Kubernetes'
// controllers do, and can be read again.
func TestOwnedSlice(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.KindService, cluster.KindEndpoints} {
		e := &cluster.EndpointSlice{Meta: cluster.Meta{Namespace: "shop", Name: "web-2x9kd", UID: "u-2", Labels: map[string]string{cluster.LabelServiceName: "web"}}, Family: cluster.IPv4,
			Owner: kind.Ref(cluster.Key{Namespace: "shop", Name: "web"}), OwnerUID: "u-1"}
		data, err := Encode(e, YAML)
		if err != nil {
			t.Fatal(err)
		}
		want := "  generateName: web-\n  labels:\n    kubernetes.io/service-name: web\n  name: web-2x9kd\n  namespace: shop\n  ownerReferences:\n  - apiVersion: v1\n    blockOwnerDeletion: true\n" +
			"    controller: true\n    kind: " + string(kind) + "\n    name: web\n    uid: u-1\n"
		if !strings.Contains(string(data), want) {
			t.Errorf("there is no\n%s in\n%s", want, data)
		}
		o, warnings, err := Parse("x", data)
		if err != nil || len(warnings) > 0 || len(o.EndpointSlices) != 1 || o.EndpointSlices[0].Name != e.Name || o.EndpointSlices[0].Owner != (cluster.Ref{}) {
			t.Errorf("read back as %+v: %v %v", o, warnings, err)
		}
	}
}
