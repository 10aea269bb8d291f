package kube

import (
	"fmt"
	"strings"
	"testing"
)

// TestNames: what is deleted needs a name, and nothing else that is right.
func TestNames(t *testing.T) {
	const faulty = `
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: web, namespace: shop}
spec: {podSelecter: {}, ingress: [{ports: [{port: 0}]}]}
---
kind: Pod
apiVersion: v1
metadata: {name: a}
---
kind: Namespace
apiVersion: v1
metadata: {name: shop, labels: [no]}
---
kind: List
apiVersion: v1
items:
- {kind: Service, apiVersion: v1, metadata: {name: web}, spec: 7}
- {kind: Service, apiVersion: v1, metadata: {name: web}}
- {kind: ConfigMap, apiVersion: v1, metadata: {name: not-handled}}
- {kind: NetworkPolicy, apiVersion: networking.k8s.io/v9, metadata: {name: later}}
- {kind: ClusterNetworkPolicy, apiVersion: policy.networking.k8s.io/v1alpha2, metadata: {name: all, namespace: ignored}}
`
	got, err := Names([]string{"-"}, strings.NewReader(faulty))
	want := "[Namespace shop Pod default/a Service default/web NetworkPolicy shop/web NetworkPolicy default/later ClusterNetworkPolicy all]"
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, error %v, want %s", got, err, want)
	}
	for text, want := range map[string]string{
		"kind: Pod\napiVersion: v1\nmetadata: {generateName: a-}\n":            "stdin:3: Pod default/a-*: metadata.name: is not set; an object is deleted by its name",
		"kind: Pod\napiVersion: v1\n":                                          "stdin:1: Pod: metadata.name: is not set; an object is deleted by its name",
		"kind: Pod\napiVersion: v1\nmetadata: {name: a, namespace: 7}\n":       "stdin:3: Pod default/a: metadata.namespace: must be a string",
		"kind: Pod\nmetadata: {name: a}\n":                                     "stdin:1: Pod default/a: apiVersion: is not set",
		"kind: Pod\napiVersion: v1\nmetadata: {name: a}\n---\nkind: [\n":       "stdin:5: document 2",
		"kind: Pod\napiVersion: v1\nmetadata: {name: a}\n---\nnot an object\n": "stdin:5: document 2: is not an object with apiVersion and kind",
	} {
		refs, err := Names([]string{"-"}, strings.NewReader(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) || refs != nil {
			t.Errorf("%q: %v, error %v, want %s", text, refs, err, want)
		}
	}
}
