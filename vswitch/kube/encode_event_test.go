package kube

import (
	"testing"
	"time"

	"vswitch/vswitch/cluster"
)

// TestEncodeEvent: an event has the form of core/v1, and its object the version of
// its kind. The wanted form is what an API server gives back of an event that a
// recorder of client-go wrote, but for the source.
func TestEncodeEvent(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, c := range []struct {
		name  string
		event *cluster.Event
		want  string
	}{
		{"container", &cluster.Event{
			Meta:   cluster.Meta{Namespace: "x", Name: "web.17", UID: "e1", ResourceVersion: 7, Created: at},
			Object: cluster.KindPod.Ref(cluster.Key{Namespace: "x", Name: "web"}), ObjectUID: "p1", Part: "spec.containers{c}", Node: "node1",
			Warning: true, Reason: "BackOff", Message: "again", Count: 3, First: at, Last: at.Add(time.Minute)}, `apiVersion: v1
count: 3
eventTime: null
firstTimestamp: "2024-05-06T07:08:09Z"
involvedObject:
  apiVersion: v1
  fieldPath: spec.containers{c}
  kind: Pod
  name: web
  namespace: x
  uid: p1
kind: Event
lastTimestamp: "2024-05-06T07:09:09Z"
message: again
metadata:
  creationTimestamp: "2024-05-06T07:08:09Z"
  name: web.17
  namespace: x
  resourceVersion: "7"
  uid: e1
reason: BackOff
reportingComponent: vswitch
reportingInstance: node1
source:
  component: vswitch
  host: node1
type: Warning
`},
		{"deployment", &cluster.Event{
			Meta:   cluster.Meta{Namespace: "x", Name: "web.18", UID: "e2", ResourceVersion: 8, Created: at},
			Object: cluster.KindDeployment.Ref(cluster.Key{Namespace: "x", Name: "web"}), ObjectUID: "d1",
			Reason: "Scaled", Message: "up", Count: 1, First: at, Last: at}, `apiVersion: v1
count: 1
eventTime: null
firstTimestamp: "2024-05-06T07:08:09Z"
involvedObject:
  apiVersion: apps/v1
  kind: Deployment
  name: web
  namespace: x
  uid: d1
kind: Event
lastTimestamp: "2024-05-06T07:08:09Z"
message: up
metadata:
  creationTimestamp: "2024-05-06T07:08:09Z"
  name: web.18
  namespace: x
  resourceVersion: "8"
  uid: e2
reason: Scaled
reportingComponent: vswitch
reportingInstance: ""
source:
  component: vswitch
type: Normal
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Encode(c.event, YAML)
			if err != nil || string(got) != c.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, c.want)
			}
		})
	}
}
