package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/cluster"
)

// clientPods are one pod on each node, to speak from.
const clientPods = `
apiVersion: v1
kind: Pod
metadata: {name: client1, namespace: shop}
spec: {nodeName: node1, terminationGracePeriodSeconds: 1, containers: [{name: main, command: [sleep, "1000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client2, namespace: shop}
spec: {nodeName: node2, terminationGracePeriodSeconds: 1, containers: [{name: main, command: [sleep, "1000"]}]}
---
`

// webService is a deployment of two versions behind a service; %[1]s is the
// version, %[2]s what else its container has.
const webService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 2, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: web, version: %[1]q}}
    spec:
      terminationGracePeriodSeconds: 10
      containers: [{name: main, ports: [{containerPort: 8080}]%[2]s}]
`

// rolledOut waits until a deployment has replicas of one version only, and those
// of before are gone.
func rolledOut(t testing.TB, c *Client, version string) {
	t.Helper()
	eventually(t, func() string {
		s, err := c.State(t.Context())
		if err != nil {
			return err.Error()
		}
		d := s.Deployments[0]
		if d.UpdatedReplicas != d.Replicas || d.AvailableReplicas != d.Replicas {
			return fmt.Sprintf("%d of %d replicas are updated, %d available", d.UpdatedReplicas, d.Replicas, d.AvailableReplicas)
		}
		for _, p := range s.Pods {
			if v := p.Labels["version"]; v != "" && v != version {
				return fmt.Sprintf("pod %s is of version %s", p.Name, v)
			}
		}
		return ""
	})
}

// TestRollingUpdate replaces all pods behind a service under load: no request
// fails, neither with servers that finish what they have begun when they are told
// to end, nor with such as do not.
func TestRollingUpdate(t *testing.T) {
	exe := thisProgram(t)
	version := func(v, container string) string { return fmt.Sprintf(webService, v, container) }
	c := clusterOf(t, 2, clientPods+version("one", ""))
	url := "http://" + serviceAt(t, c, "web", "80") + "/"
	web := `, command: [` + exe + `, test-web, ":8080", %s], readinessProbe: {httpGet: {port: 8080}}`
	for _, to := range []struct{ name, version, container string }{
		{"built-in", "two", ""},
		{"built-in to one that does not drain", "three", fmt.Sprintf(web, "three")},
		{"no draining", "four", fmt.Sprintf(web, "four")},
	} {
		t.Run(to.name, func(t *testing.T) {
			var loads []*background
			for _, pod := range []string{"client1", "client2"} {
				loads = append(loads, inBackground(t, c, ExecRequest{Pod: pod, Command: []string{exe, "test-load", url}}))
			}
			time.Sleep(100 * time.Millisecond)
			apply(t, c, manifests(t, version(to.version, to.container)))
			rolledOut(t, c, to.version)
			time.Sleep(100 * time.Millisecond)
			for _, l := range loads {
				noneFailed(t, l, 50)
			}
		})
	}
}

// noneFailed ends a test-load, and checks that of its requests, which are at
// least that many, none failed.
func noneFailed(t *testing.T, l *background, least int) {
	t.Helper()
	var r loadReport
	if err := json.Unmarshal([]byte(l.end(t)), &r); err != nil {
		t.Fatalf("%v: %s", err, l.out)
	}
	t.Logf("%d requests, the longest %s", r.Requests, r.Longest)
	if len(r.Failed) > 0 || r.Requests < least || r.Longest > 15*time.Second {
		t.Errorf("of %d requests %d failed:\n%s", r.Requests, len(r.Failed), strings.Join(r.Failed[:min(10, len(r.Failed))], "\n"))
	}
}

// podsOf returns the pods of a deployment that are not being deleted.
func podsOf(t testing.TB, c *Client, app string) (pods []*cluster.Pod) {
	t.Helper()
	all, err := c.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Labels["app"] == app && p.Deleted.IsZero() {
			pods = append(pods, p)
		}
	}
	return pods
}
