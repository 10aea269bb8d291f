package kube

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var updateGolden = flag.Bool("update", false, "write what tests got into their txtar files")

// TestLoad lays out the files of each testdata/load/*.txtar whose names do not
// begin with "want", loads the paths that its first line names, and compares errors, warnings and, if the archive has
// want.objects, the objects as Encode writes them.
func TestLoad(t *testing.T) {
	archives, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			var stdin string
			for _, f := range a.Files {
				switch {
				case f.Name == "stdin":
					stdin = string(f.Data)
				case !strings.HasPrefix(f.Name, "want"):
					if err := os.MkdirAll(filepath.Dir(f.Name), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(f.Name, f.Data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			first, _, _ := strings.Cut(string(a.Comment), "\n")
			args := strings.Fields(first)
			objects, warnings, err := Load(args, strings.NewReader(stdin))
			got := map[string]string{"want.errors": lines(err)}
			for _, w := range warnings {
				got["want.warnings"] += w.String() + "\n"
			}
			if err == nil {
				got["want.objects"] = encodeAll(t, objects)
			}
			changed := false
			for i := range a.Files {
				f := &a.Files[i]
				if !strings.HasPrefix(f.Name, "want") {
					continue
				}
				if *updateGolden {
					changed = changed || string(f.Data) != got[f.Name]
					f.Data = []byte(got[f.Name])
				} else if d := cmp.Diff(string(f.Data), got[f.Name]); d != "" {
					t.Errorf("%s (-want +got):\n%s", f.Name, d)
				}
				delete(got, f.Name)
			}
			for _, must := range []string{"want.errors", "want.warnings"} {
				if got[must] != "" {
					t.Errorf("not expected:\n%s", got[must])
				}
			}
			if changed {
				golden = append(golden, func() error { return os.WriteFile(name, txtar.Format(a), 0o644) })
			}
		})
	}
	for _, write := range golden { // here the working directory is right again
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
}

var golden []func() error

func lines(err error) string {
	if err == nil {
		return ""
	}
	return err.Error() + "\n"
}

func encodeAll(t *testing.T, o *Objects) string {
	t.Helper()
	var b strings.Builder
	for _, n := range nouns(o) {
		data, err := Encode(n, YAML)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(data)
	}
	return b.String()
}

func nouns(o *Objects) (list []any) {
	for _, n := range o.Namespaces {
		list = append(list, n)
	}
	for _, n := range o.Nodes {
		list = append(list, n)
	}
	for _, d := range o.Deployments {
		list = append(list, d)
	}
	for _, p := range o.Pods {
		list = append(list, p)
	}
	for _, v := range o.Services {
		list = append(list, v)
	}
	for _, e := range o.EndpointSlices {
		list = append(list, e)
	}
	for _, e := range o.Endpoints {
		list = append(list, e)
	}
	for _, p := range o.NetworkPolicies {
		list = append(list, p)
	}
	for _, p := range o.ClusterNetworkPolicies {
		list = append(list, p)
	}
	return list
}

func TestErrorsAreTyped(t *testing.T) {
	_, _, err := Parse("x.yaml", []byte("kind: Pod\napiVersion: v1\nmetadata: {name: A}\nspec: {containers: [{name: c}]}\n---\nkind: [\n"))
	var e *Error
	if !errors.As(err, &e) || e.File != "x.yaml" || e.Line != 3 || e.Document != 1 || e.Object != "Pod default/A" || e.Field != "metadata.name" {
		t.Fatalf("%#v", e)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 2 {
		t.Fatalf("not all errors are there: %v", err)
	}
}

func TestErrorIsOneLine(t *testing.T) {
	_, _, err := Parse("x.yaml", []byte("kind: Pod\napiVersion: v1\nmetadata: {\"na\\nme\\u001b[31m\": A, name: \"a\\nb\"}\n"))
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(line, "x.yaml:3: ") && !strings.HasPrefix(line, "x.yaml:1: ") || strings.Contains(line, "\x1b") {
			t.Errorf("%q", line)
		}
	}
}

func TestLoadPaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	pod := func(name string) []byte {
		return fmt.Appendf(nil, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c}]}\n", name)
	}
	for name, content := range map[string][]byte{
		"d/b.yaml": pod("b"), "d/a/c.yml": pod("c"), "d/a.JSON": []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`),
		"d/notes.txt": []byte("{{{"), "d/.hidden.yaml": []byte("{{{"), "d/.git/x.yaml": []byte("{{{"), "plain": pod("plain"),
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../plain", "d/link.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("d", "dir"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", "d/up.yaml"); err != nil { // a link to a directory
		t.Fatal(err)
	}
	o, _, err := Load([]string{"dir", "./dir/b.yaml", "dir/../dir"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range o.Pods {
		names = append(names, p.Name+" "+p.Source)
	}
	want := []string{"c dir/a/c.yml:1", "b dir/b.yaml:1", "plain dir/link.yaml:1"}
	if d := cmp.Diff(want, names); d != "" || len(o.Namespaces) != 1 {
		t.Errorf("%s%d namespaces", d, len(o.Namespaces))
	}
	_, _, err = Load([]string{"nowhere", "-"}, nil)
	if err == nil || err.Error() != "nowhere: no such file or directory\nstdin: there is no standard input" {
		t.Errorf("%v", err)
	}
	o, _, err = Load(nil, nil)
	if err != nil || o.Len() != 0 {
		t.Errorf("nothing to load: %v, %v", o, err)
	}
}

// TestGenerateName: the name is the same whenever the same is read, differs for
// what differs, and is never longer than a label may be.
func TestGenerateName(t *testing.T) {
	long := strings.Repeat("a", 63)
	service := func(prefix, port string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {generateName: " + prefix + "}\nspec: {ports: [{port: " + port + "}]}\n"
	}
	input := service("web-", "80") + "---\n" + service("web-", "80") + "---\n" + service("web-", "81") + "---\n" + service(long, "80")
	names := func() (list []string) {
		o, _, err := Parse("x", []byte(input))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range o.Services {
			list = append(list, v.Name)
		}
		return list
	}
	got := names()
	if d := cmp.Diff(got, names()); d != "" {
		t.Errorf("read again: %s", d)
	}
	seen := map[string]bool{}
	for i, n := range got {
		if prefix := []string{"web-", "web-", "web-", long[:58]}[i]; seen[n] || !strings.HasPrefix(n, prefix) || len(n) != len(prefix)+5 {
			t.Errorf("%q", got)
		}
		seen[n] = true
	}
	if _, _, err := Parse("x", []byte(service("Web_", "80"))); err == nil || !strings.Contains(err.Error(), "metadata.generateName") {
		t.Errorf("a bad prefix: %v", err)
	}
}
