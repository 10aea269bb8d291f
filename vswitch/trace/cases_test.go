package trace

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cases reads a file of expected behaviour that is not part of the project, or
// skips the test where it is not at hand.
func cases(t *testing.T, name string, v any) {
	t.Helper()
	dir := casesDir(t)
	data, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) && os.Getenv("VSWITCH_CASES") == "" {
		t.Skipf("there is no %s in %s; VSWITCH_CASES may name another directory", name, dir)
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// casesDir returns where expected behaviour is found: shared/cases beside the
// module's root directory, or what VSWITCH_CASES says.
func casesDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("VSWITCH_CASES"); dir != "" {
		return dir
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return filepath.Join(filepath.Dir(root), "shared", "cases")
		}
		up := filepath.Dir(root)
		if up == root {
			t.Fatal("no go.mod here or above")
		}
		root = up
	}
}

// TestCasesKubeProxy: every flow can be asked about, from whoever sends it.
func TestCasesKubeProxy(t *testing.T) {
	var file struct {
		Groups []struct {
			ID        string
			Viewpoint struct {
				Node    string
				NodeIPs []string
				PodCIDR string `json:"podCIDR(local detector)"`
			}
			Flows []struct {
				Name, Src, SrcKind, Proto, Dst string
				Port                           int
			}
		}
	}
	cases(t, "kubeproxy-flows.json", &file)
	flows := 0
	for _, g := range file.Groups {
		v := g.Viewpoint
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec: {podCIDRs: [%q]}\nstatus:\n  addresses:\n", v.Node, v.PodCIDR)
		for _, ip := range v.NodeIPs {
			fmt.Fprintf(&b, "    - {type: InternalIP, address: %q}\n", ip)
		}
		c, _ := load(t, b.String())
		for _, f := range g.Flows {
			to := fmt.Sprintf("%s:%d", f.Dst, f.Port)
			if strings.Contains(f.Dst, ":") {
				to = fmt.Sprintf("[%s]:%d", f.Dst, f.Port)
			}
			if _, err := c.Trace(t.Context(), Probe{From: f.Src, To: to, Proto: strings.ToLower(f.Proto)}); err != nil {
				t.Errorf("%s: %s: %v", g.ID, f.Name, err)
			}
			flows++
		}
	}
	t.Logf("%d flows", flows)
}

// TestCasesNetpol: every pair of pods can be asked about.
func TestCasesNetpol(t *testing.T) {
	var file struct {
		Cases []struct {
			ID   string
			Pods []struct{ Namespace, Name, IP, Node string }

			Steps []struct {
				Pods     []string
				Expected map[string][]string
			}
		}
	}
	cases(t, "netpol-e2e.json", &file)
	probes := 0
	for _, k := range file.Cases {
		var b strings.Builder
		for _, p := range k.Pods {
			fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %q, namespace: %q}\nspec: {nodeName: %q, containers: [{name: c}]}\nstatus: {podIP: %q}\n",
				p.Name, p.Namespace, p.Node, p.IP)
		}
		c, _ := load(t, b.String())
		for _, s := range k.Steps {
			for what := range s.Expected {
				proto, port, _ := strings.Cut(what, "/")
				for _, from := range s.Pods {
					for _, to := range s.Pods {
						r, err := c.Trace(t.Context(), Probe{From: from, To: to + ":" + port, Proto: strings.ToLower(proto)})
						if err != nil || r.Verdict != Delivered {
							t.Errorf("%s: %s to %s: %+v, %v", k.ID, from, to, r, err)
						}
						probes++
					}
				}
			}
		}
	}
	t.Logf("%d probes", probes)
}
