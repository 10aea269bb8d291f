package kube

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// FuzzTree compares documents with what kubectl's YAML library makes of them.
func FuzzTree(f *testing.F) {
	for _, s := range []string{
		"a: 1\nb: [x, 1.5, true, null, ~, 0x10, 1e3, .inf, 010, 1_000]\n", "a: &x {b: 1}\nc: {<<: *x, d: 2}\n", "- a\n- - b\n",
		"a: y\ny: n\n", "1: a\ntrue: b\n1.5: c\n", "a: 2024-01-01\nb: !!str 5\nc: !!binary aGk=\n", "\"a\": 'b'\n", "a: |\n  x\n  y\n", "a: yes\nb: off\n",
		"a: 1\na: 2\n", "? [a]\n: b\n", "? {a: b}\n: c\n", "a: {b: 1, b: 2}\n", "x: 12345678901234567890\n", "x: -0.0\n", "a: 1.0\n", "!!binary 0000", "a: \"null\"\nb: ['~', \"null\", null]\n", "1: 1\n1.:",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs := split("f", data)
		if len(docs) != 1 || json.Valid(docs[0].data) {
			return
		}
		got, errs := docs[0].tree()
		text, err := yaml.YAMLToJSONStrict(docs[0].data)
		if (err != nil) != (errs != nil) {
			if keysDiffer(errs, err) {
				return
			}
			t.Fatalf("%q: errors %v, want %v", data, errs, err)
		}
		if err != nil {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !alike(got, want) {
			t.Errorf("%q:\n got %#v\nwant %#v", data, got, want)
		}
	})
}

// TestQuotedNull: null in quotes is text like any other, and does not keep
// lines from being found.
func TestQuotedNull(t *testing.T) {
	o, _, err := Parse("f", []byte("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: {a: \"null\", b: '~', c: null, d: \"\"}\n"+
		"spec:\n  containers:\n  - name: c\n    command: [\"null\", '~']\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := o.Pods[0]
	if want := map[string]string{"a": "null", "b": "~", "c": "", "d": ""}; !reflect.DeepEqual(p.Annotations, want) {
		t.Errorf("annotations %q", p.Annotations)
	}
	if c := p.Containers[0].Command; !reflect.DeepEqual(c, []string{"null", "~"}) {
		t.Errorf("command %q", c)
	}
	_, _, err = Parse("f", []byte("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {a: \"null\"}\nspec:\n  containers:\n  - name: \"null\"\n    comand: [a]\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "f:9: ") {
		t.Errorf("%v", err)
	}
}

// keysDiffer reports whether only one side has seen keys that are given
// twice (y and true are one key to the other), that are no text, or numbers
// that JSON does not have.
func keysDiffer(errs []*Error, err error) bool {
	for _, e := range errs {
		if !strings.Contains(e.Message, "given twice") && !strings.Contains(e.Message, "must be text") {
			return false
		}
	}
	return err == nil || strings.Contains(err.Error(), "already set") || strings.Contains(err.Error(), "unsupported value") ||
		strings.Contains(err.Error(), "map key")
}

// alike compares values. The other side makes bools of y and n, and writes
// keys that are no strings in its own way.
func alike(got, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return false
		}
		if len(g) != len(w) { // keys that became one there
			return len(g) > len(w)
		}
		for k, v := range g {
			if wv, there := w[k]; there && !alike(v, wv) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range g {
			if !alike(g[i], w[i]) {
				return false
			}
		}
		return true
	case bool:
		if s, ok := got.(string); ok {
			b, letter := oldBool[s]
			return letter && b == w
		}
	case json.Number:
		g, ok := got.(json.Number)
		x, _ := g.Float64()
		y, _ := w.Float64()
		return ok && x == y
	}
	return reflect.DeepEqual(got, want)
}

func TestLettersAreText(t *testing.T) {
	o, _, err := Parse("f", []byte(`
apiVersion: v1
kind: Pod
metadata: {name: n, namespace: y, labels: {y: n}}
spec: {hostNetwork: y, containers: [{name: c}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	p := o.Pods[0]
	if p.Name != "n" || p.Namespace != "y" || p.Labels["y"] != "n" || !p.HostNetwork {
		t.Errorf("%+v", p)
	}
}
