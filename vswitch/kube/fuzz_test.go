package kube

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse reads arbitrary bytes. Parse must not panic; an error must be one
// printable line with a place; and what was accepted must be written and read
// back to the same nouns.
func FuzzParse(f *testing.F) {
	archives, _ := filepath.Glob("testdata/load/*.txtar")
	for _, name := range archives {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			f.Add(file.Data)
			for _, doc := range strings.Split(string(file.Data), "---\n") {
				f.Add([]byte(doc))
			}
		}
	}
	for _, s := range []string{
		"", "---", "...", "a: &a [*a]", "{}", "[]", "\x00", "kind: List\napiVersion: v1\nitems: [{kind: List, apiVersion: v1, items: [1]}]",
		"<<: *x", "? {a: b}\n: c\n", "kind: Pod\napiVersion: v1\nmetadata: {generateName: x-}\nspec: {containers: [{name: c}]}\n",
		"\xff\xfea\x00", "apiVersion: v1\nkind: Pod\n!!binary x: y\n", "a: !!binary x\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, warnings, err := Parse("f", data)
		for _, w := range warnings {
			if w.Line < 1 || w.Kind == "" {
				t.Errorf("%+v", w)
			}
			oneLineOnly(t, w.String())
		}
		if err != nil {
			if o != nil {
				t.Error("objects and an error")
			}
			all := err.(interface{ Unwrap() []error }).Unwrap()
			for _, err := range all {
				var e *Error
				if !errors.As(err, &e) || e.Line < 1 || e.Message == "" {
					t.Errorf("%#v", err)
				}
				oneLineOnly(t, err.Error())
			}
			standInsAreValid(t, err)
			return
		}
		list, err := EncodeList(nouns(o), JSON)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := Parse("again", list)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, list)
		}
		clearSource(o)
		clearSource(again)
		if d := cmp.Diff(o, again, comparers); d != "" {
			t.Errorf("read back (-first +again):\n%s\n%s", d, list)
		}
	})
}

// standInsAreValid: what stands for a policy that is refused has a reason, and
// can be written and read.
func standInsAreValid(t *testing.T, err error) {
	t.Helper()
	list := StandIns(err)
	for _, p := range list.NetworkPolicies {
		if p.Invalid == "" || p.Name == "" || p.Namespace == "" || !p.IsolatesIngress || !p.IsolatesEgress {
			t.Errorf("%+v", p)
		}
	}
	for _, p := range list.ClusterNetworkPolicies {
		if p.Invalid == "" || p.Name == "" || p.Subject.Namespaces == nil {
			t.Errorf("%+v", p)
		}
	}
	for _, n := range nouns(list) {
		data, err := Encode(n, YAML)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := Parse("again", data)
		if err != nil || again.Len() != 1 {
			t.Errorf("what stands in is refused: %v\n%s", err, data)
		}
	}
}

func oneLineOnly(t *testing.T, s string) {
	t.Helper()
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		t.Errorf("not one printable line: %q", s)
	}
}

func clearSource(o *Objects) {
	for _, m := range metas(o) {
		m.Source = ""
	}
}

// TestManyAliases must not take long: each line doubles what the last one is.
func TestManyAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\na0: &a0 [x]\n")
	for i := range 60 {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	if _, _, err := Parse("bomb", []byte(b.String())); err == nil || !strings.Contains(err.Error(), "alias") {
		t.Errorf("%v", err)
	}
}

func BenchmarkParse10kPods(b *testing.B) {
	var text strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web-%d\n  namespace: shop\n  labels: {app: web}\nspec:\n  nodeName: node1\n  containers:\n  - name: web\n    image: nginx\n    ports:\n    - containerPort: 80\n", i)
	}
	data := []byte(text.String())
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, _, err := Parse("b", data); err != nil {
			b.Fatal(err)
		}
	}
}
