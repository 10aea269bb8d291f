package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
)

// The objects of the talk, in the forms in which it shows them: what a user
// writes, with everything else left to the cluster, and what comes back.
const (
	storeService = `kind: Service
apiVersion: v1
metadata:
  name: store-be
  namespace: default
spec:
  selector:
    app: store
    role: be
  ports:
  - name: http
    protocol: TCP
    port: 80
`
	// headlessService has a name for each pod, and no address of its own.
	headlessService = `kind: Service
apiVersion: v1
metadata:
  name: store-pods
  namespace: default
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector:
    app: store
    role: be
  ports:
  - name: http
    protocol: TCP
    port: 80
`
	headlessName  = "store-pods.default.svc.cluster.local."
	storeBalancer = `kind: Service
apiVersion: v1
metadata:
  name: store-be
  namespace: default
spec:
  type: LoadBalancer
  selector:
    app: store
    role: be
  ports:
  - name: http
    protocol: TCP
    port: 80
`
	// talkBalancer is a Service as an API server of that time gives it back, with
	// its status; it needs ranges that hold its addresses.
	talkBalancer  = talkMetadata + talkSpec
	talkOnlyLocal = talkMetadata + `  annotations:
    service.beta.kubernetes.io/external-traffic: OnlyLocal
` + talkSpec
	talkMetadata = `kind: Service
apiVersion: v1
metadata:
  name: store-be
  namespace: default
  creationTimestamp: 2016-05-06T19:16:56Z
  resourceVersion: "7"
  selfLink: /api/v1/namespaces/default/services/store-be
  uid: 196d5751-13bf-11e6-9353-42010a800fe3
`
	talkSpec = `spec:
  type: LoadBalancer
  selector:
    app: store
    role: be
  clusterIP: 10.9.3.76
  ports:
  - name: http
    protocol: TCP
    port: 80
    targetPort: 80
  sessionAffinity: None
status:
  loadBalancer:
    ingress:
    - ip: 86.75.30.9
`
	frontService = `kind: Service
apiVersion: v1
metadata:
  name: store-fe
  namespace: default
spec:
  selector:
    app: store
    role: fe
  ports:
  - name: http
    protocol: TCP
    port: 80
`
	// frontDeployment needs this program's path and the version, as strings. What
	// keeps requests from failing is what Kubernetes asks for: a readiness probe,
	// and a pause before the end, in which the nodes hear of it.
	frontDeployment = `kind: Deployment
apiVersion: apps/v1
metadata:
  name: store-fe
  namespace: default
spec:
  replicas: 4
  selector:
    matchLabels: {app: store, role: fe}
  strategy:
    rollingUpdate: {maxSurge: 2, maxUnavailable: 0}
  template:
    metadata:
      labels: {app: store, role: fe, version: %[2]s}
    spec:
      containers:
      - name: fe
        command: [%[1]q, ` + demoProcess + `, serve, default/$(POD)]
        env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        ports:
        - containerPort: 80
        readinessProbe:
          tcpSocket: {port: 80}
          periodSeconds: 1
        lifecycle:
          preStop:
            sleep: {seconds: 1}
`
)

var (
	storeKey = cluster.Key{Namespace: "default", Name: "store-be"}
	frontKey = cluster.Key{Namespace: "default", Name: "store-fe"}
	backend  = map[string]string{"app": "store", "role": "be"}

	talkServices  = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	talkBalancers = []netip.Prefix{netip.MustParsePrefix("86.75.30.0/28")}
	talkIP        = netip.MustParseAddr("10.9.3.76")
	talkIngress   = netip.MustParseAddr("86.75.30.9")
)

// apply reads a manifest and applies it.
func apply(ctx context.Context, s stage, manifest string) error {
	o, warnings, err := kube.Parse("manifest", []byte(manifest))
	if err != nil {
		return err
	}
	if len(warnings) > 0 {
		return fmt.Errorf("%s", warnings[0])
	}
	return s.Apply(ctx, o)
}

// service waits until a service is as wanted and returns it.
func service(ctx context.Context, s stage, key cluster.Key, wanted func(*cluster.Service) bool) (v *cluster.Service, err error) {
	err = await(ctx, s, func(state *cluster.State) bool {
		v = state.Service(key)
		return v != nil && wanted(v)
	})
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", key, err)
	}
	return v, nil
}

// showObject prints an object as it comes back, and marks what is not in the
// manifest that it was made from.
func (d *demo) showObject(manifest string, object any) error {
	data, err := kube.Encode(object, kube.YAML)
	if err != nil {
		return err
	}
	written := strings.Split(manifest, "\n")
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		// A list's dash may stand elsewhere, as the order of its fields may differ.
		bare := strings.TrimLeft(line, " -")
		if slices.ContainsFunc(written, func(w string) bool { return strings.TrimLeft(w, " -") == bare }) {
			d.printf("       %s\n", line)
		} else {
			d.printf("     %s %s\n", d.paint("32", "+"), d.paint("32", line))
		}
	}
	return nil
}
