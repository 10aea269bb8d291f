package kube

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"vswitch/vswitch/cluster"
)

var podType, specType = reflect.TypeFor[corev1.Pod](), reflect.TypeFor[corev1.PodSpec]()

var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func ptr[T any](v T) *T { return &v }

// bare are nouns without a manifest, with every field set that a manifest can
// carry.
func bare() *Objects {
	at := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	addr := netip.MustParseAddr
	meta := func(ns, name string) cluster.Meta {
		return cluster.Meta{Namespace: ns, Name: name, UID: "6f1d", ResourceVersion: 42, Generation: 3, Created: at,
			Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}
	}
	pod := cluster.Pod{
		Node: "n1", NodeSelector: map[string]string{"disk": "ssd"}, Hostname: "h", Subdomain: "s",
		RestartPolicy: cluster.RestartOnFailure, GracePeriod: 7 * time.Second,
		HostAliases: []cluster.HostAlias{{IP: addr("10.9.9.9"), Names: []string{"old.example"}}},
		RunAsUser:   ptr(int64(70)), RunAsGroup: ptr(int64(71)),
		InitContainers: []cluster.Container{{Name: "side", Command: []string{"s"}, Sidecar: true,
			Readiness: &cluster.Probe{Handler: cluster.Handler{GRPC: &cluster.GRPC{Port: 9000, Service: "shop"}}, Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3},
			Startup:   &cluster.Probe{Handler: cluster.Handler{TCP: &cluster.TCPSocket{PortName: "web"}}, Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 30},
			PreStop:   &cluster.Handler{Sleep: 2 * time.Second}}},
		Containers: []cluster.Container{{
			Name: "c", Image: "img:1", Command: []string{"run", "$(IP)"}, WorkingDir: "/srv",
			Env: []string{"A=1", "IP=", "EMPTY="}, EnvFields: map[string]string{"IP": "status.podIP"},
			Ports: []cluster.ContainerPort{{Name: "web", Port: 80, Protocol: 6}, {Name: "dns", Port: 53, HostPort: 5353, HostIP: addr("10.0.0.1"), Protocol: 17},
				{Name: "sctp", Port: 9, Protocol: 132}},
			RunAsUser: ptr(int64(0)),
			Liveness: &cluster.Probe{Handler: cluster.Handler{Exec: []string{"true"}}, InitialDelay: 5 * time.Second, Period: 10 * time.Second, Timeout: 2 * time.Second,
				SuccessThreshold: 1, FailureThreshold: 3, GracePeriod: ptr(4 * time.Second)},
			Readiness: &cluster.Probe{Handler: cluster.Handler{HTTP: &cluster.HTTPGet{HTTPS: true, Host: "a.example", Port: 8443, Path: "/ready",
				Headers: [][2]string{{"X-A", "1"}, {"X-A", "2"}}}}, Period: time.Second, Timeout: time.Second, SuccessThreshold: 2, FailureThreshold: 3},
			PreStop: &cluster.Handler{HTTP: &cluster.HTTPGet{PortName: "web", Path: "/quit"}},
		}},
	}
	running := pod
	running.Meta = meta("shop", "web")
	running.Owner, running.OwnerUID = cluster.Key{Namespace: "shop", Name: "web"}, "77"
	running.IPs = []netip.Addr{addr("10.244.1.5"), addr("fd00::5")}
	running.Phase, running.Ready, running.ReadyAt, running.Started = cluster.PodRunning, true, at.Add(time.Minute), at
	running.Restarts = 3
	running.Statuses = []cluster.ContainerStatus{
		{Name: "side", Running: true, Ready: true, Started: at},
		{Name: "c", Running: true, Ready: true, Restarts: 3, Started: at.Add(time.Second), Finished: at, ExitCode: 1},
	}
	failed := pod
	failed.Meta, failed.Node = meta("shop", "failed"), ""
	failed.Phase, failed.Reason = cluster.PodPending, "0/1 nodes are available"
	ended := pod
	ended.Meta, ended.Phase, ended.Reason = meta("shop", "ended"), cluster.PodFailed, "exit code 2"
	ended.Statuses = []cluster.ContainerStatus{{Name: "c", Started: at, Finished: at.Add(time.Second), ExitCode: 2, Reason: "Error"}}
	ended.Deleted = at.Add(time.Hour)
	template := pod
	template.Node, template.RestartPolicy = "", cluster.RestartAlways
	template.Labels = map[string]string{"app": "web"}
	services, slices, endpoints := bareServices(meta)
	return &Objects{
		Services: services, EndpointSlices: slices, Endpoints: endpoints,
		NetworkPolicies: bareNetworkPolicies(meta), ClusterNetworkPolicies: bareClusterPolicies(meta),
		Namespaces: []*cluster.Namespace{{Meta: meta("", "shop")}},
		Nodes: []*cluster.Node{{Meta: meta("", "n1"), Addresses: []netip.Addr{addr("172.29.0.1"), addr("fd00:10:29::1")},
			ExtraAddresses: []netip.Addr{addr("192.168.1.1")},
			PodCIDRs:       []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00::/64")}, Ready: true, Unschedulable: true},
			{Meta: meta("", "n2"), Reason: "its process ended"}},
		Pods: []*cluster.Pod{&running, &failed, &ended},
		Deployments: []*cluster.Deployment{{Meta: meta("shop", "web"), Replicas: 4, Selector: map[string]string{"app": "web"}, Template: template,
			MaxSurge: 2, MaxUnavailable: 1, MinReady: 5 * time.Second, Paused: true,
			CurrentReplicas: 4, UpdatedReplicas: 3, ReadyReplicas: 2, AvailableReplicas: 1},
			{Meta: meta("shop", "recreate"), Replicas: 1, Selector: map[string]string{"app": "web"}, Template: template, Recreate: true}},
	}
}

func metas(o *Objects) (list []*cluster.Meta) {
	for _, n := range nouns(o) {
		switch n := n.(type) {
		case *cluster.Namespace:
			list = append(list, &n.Meta)
		case *cluster.Node:
			list = append(list, &n.Meta)
		case *cluster.Pod:
			list = append(list, &n.Meta)
		case *cluster.Deployment:
			list = append(list, &n.Meta)
		case *cluster.Service:
			list = append(list, &n.Meta)
		case *cluster.EndpointSlice:
			list = append(list, &n.Meta)
		case *cluster.Endpoints:
			list = append(list, &n.Meta)
		case *cluster.NetworkPolicy:
			list = append(list, &n.Meta)
		case *cluster.ClusterNetworkPolicy:
			list = append(list, &n.Meta)
		}
	}
	return list
}

// normalize clears what reading adds.
func normalize(o *Objects) *Objects {
	for _, n := range o.Namespaces {
		delete(n.Labels, corev1.LabelMetadataName)
	}
	for _, m := range metas(o) {
		m.Manifest, m.Source = nil, ""
	}
	for _, d := range o.Deployments {
		d.Template.Manifest = nil
	}
	return o
}

func TestEncodeParse(t *testing.T) {
	for _, f := range []Format{YAML, JSON} {
		data, err := EncodeList(nouns(bare()), f)
		if err != nil {
			t.Fatal(err)
		}
		got, warnings, err := Parse("list", data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		for _, w := range warnings {
			if !strings.HasPrefix(w.Message, "ports.hostPort has no effect") {
				t.Errorf("%s: %s", f, w)
			}
		}
		if d := cmp.Diff(bare(), normalize(got), comparers); d != "" {
			t.Errorf("%s: read back (-written +read):\n%s\n%s", f, d, data)
		}
	}
}

// TestEncodeKeepsManifest reads what has fields that no noun knows, changes
// the noun, and finds both in the output.
func TestEncodeKeepsManifest(t *testing.T) {
	o, _, err := Parse("x", []byte(`
apiVersion: v1
kind: Pod
metadata: {name: web, annotations: {note: keep}, finalizers: [example.com/f]}
spec:
  tolerations: [{operator: Exists}]
  containers:
  - name: c
    image: nginx
    resources: {limits: {memory: 64Mi}}
    readinessProbe: {httpGet: {port: http}}
    ports: [{name: http, containerPort: 80}]
status: {phase: Running, podIP: 10.1.1.1}
`))
	if err != nil {
		t.Fatal(err)
	}
	p := *o.Pods[0]
	p.UID, p.ResourceVersion, p.Node = "u-1", 7, "n1"
	p.Created = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	p.IPs = []netip.Addr{netip.MustParseAddr("10.2.2.2")}
	data, err := Encode(&p, JSON)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(data, &pod); err != nil {
		t.Fatal(err)
	}
	memory := pod.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]
	for name, ok := range map[string]bool{
		"annotation": pod.Annotations["note"] == "keep", "finalizer": len(pod.Finalizers) == 1, "toleration": len(pod.Spec.Tolerations) == 1,
		"memory": memory.String() == "64Mi", "probe": pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.StrVal == "http",
		"uid": pod.UID == "u-1", "resourceVersion": pod.ResourceVersion == "7", "nodeName": pod.Spec.NodeName == "n1",
		"created": pod.CreationTimestamp.UTC().Equal(p.Created), "podIP": pod.Status.PodIP == "10.2.2.2" && len(pod.Status.PodIPs) == 1,
		"qos": pod.Status.QOSClass == corev1.PodQOSBurstable, "pull policy": pod.Spec.Containers[0].ImagePullPolicy == corev1.PullAlways,
	} {
		if !ok {
			t.Errorf("%s is not as it should be:\n%s", name, data)
		}
	}
	if o.Pods[0].Node != "" {
		t.Error("Encode changed what was read")
	}
}

func TestEncodeRefuses(t *testing.T) {
	if _, err := Encode(42, YAML); err == nil {
		t.Error("a number was encoded")
	}
	if _, err := Encode(&cluster.Pod{}, "toml"); err == nil {
		t.Error("an unknown format was accepted")
	}
	if _, err := Encode(&cluster.Pod{Meta: cluster.Meta{Name: "x", Manifest: []byte("{")}}, YAML); err == nil || !strings.Contains(err.Error(), "Pod x") {
		t.Errorf("a broken manifest: %v", err)
	}
	data, err := EncodeList(nil, YAML)
	if err != nil || string(data) != "apiVersion: v1\nitems: []\nkind: List\nmetadata:\n  resourceVersion: \"\"\n" {
		t.Errorf("an empty list: %q %v", data, err)
	}
}
