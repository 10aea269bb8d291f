package vswitch_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// floors is a statement of policy: a package imports only from lower floors.
// Where one floor has several lines, a line may import from those before it.
var floors = [][]string{
	{"vswitch/vswitch/packet", "vswitch/vswitch/cluster"},
	{"vswitch/vswitch/port", "vswitch/vswitch/fib", "vswitch/vswitch/l2"},
	{"vswitch/nat", "vswitch/policy", "vswitch/overlay"},
	{"vswitch/overlay/gossip"},
	{"vswitch/vswitch"},
	{"vswitch/vswitch/kube", "vswitch/vswitch/stack", "vswitch/vswitch/dns", "vswitch/vswitch/netns", "vswitch/vswitch/control"},
	{"vswitch/vswitch/agent"},
	{"vswitch/vswitch/fabric", "vswitch/vswitch/lab", "vswitch/vswitch/trace"},
	{"vswitch/cmd/vswitch", "vswitch/cmd/vswitch-cni", "vswitch/bench"},
}

// upward lists the exceptions: imports within one floor. Test support may
// import what it tests.
var upward = map[string][]string{
	"vswitch/vswitch/port/porttest":   {"vswitch/vswitch/port"},
	"vswitch/vswitch/netns/netnstest": {"vswitch/vswitch/netns"},
	"vswitch/vswitch/control":         {"vswitch/vswitch/kube"},
	"vswitch/vswitch/lab":             {"vswitch/vswitch/fabric"},
}

// forbidden maps an import path prefix to the only packages that may have it.
var forbidden = map[string][]string{
	"github.com/google/gopacket":      {"vswitch/vswitch/agent", "vswitch/bench"},
	"github.com/hashicorp/memberlist": {"vswitch/overlay/gossip"},
	"gvisor.dev/gvisor":               {"vswitch/vswitch/stack"},
	"k8s.io/":                         {"vswitch/vswitch/kube"},
	"sigs.k8s.io/":                    {"vswitch/vswitch/kube", "vswitch/vswitch/lab", "vswitch/cmd/vswitch"},
	"github.com/miekg/dns":            {"vswitch/vswitch/dns"},
	"github.com/vishvananda/netlink":  {"vswitch/vswitch/netns"},
	"github.com/spf13/cobra":          {"vswitch/cmd/vswitch"},
}

type goPackage struct {
	ImportPath, Dir string
	Imports         []string
	GoFiles         []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", "vswitch/...")
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			stderr = e.Stderr
		}
		t.Fatalf("go list: %v\n%s", err, stderr)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// floorOf returns the floor of a package; one that is not named belongs to the
// nearest package above it.
func floorOf(path string) int {
	for ; path != "."; path = filepath.Dir(path) {
		for i, f := range floors {
			if slices.Contains(f, path) {
				return i
			}
		}
	}
	return -1
}

func TestFloors(t *testing.T) {
	for _, p := range packages(t) {
		floor := floorOf(p.ImportPath)
		if floor < 0 {
			t.Errorf("%s stands on no floor; name it in floors_test.go", p.ImportPath)
		}
		for _, imp := range p.Imports {
			for prefix, allowed := range forbidden {
				if strings.HasPrefix(imp, prefix) && !slices.Contains(allowed, p.ImportPath) {
					t.Errorf("%s imports %s, which only %v may", p.ImportPath, imp, allowed)
				}
			}
			if !strings.HasPrefix(imp, "vswitch/") || slices.Contains(upward[p.ImportPath], imp) {
				continue
			}
			if f := floorOf(imp); f >= floor && !strings.HasPrefix(imp, p.ImportPath+"/") {
				t.Errorf("%s (floor %d) imports %s (floor %d)", p.ImportPath, floor, imp, f)
			}
		}
	}
}

// TestFastPathImports keeps what blocks, logs or reads clocks out of the fast path.
func TestFastPathImports(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "forward.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, imp := range f.Imports {
		switch path := strings.Trim(imp.Path.Value, `"`); path {
		case "context", "fmt", "log", "log/slog", "time", "sync", "os":
			t.Errorf("forward.go imports %s", path)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	drawers := []string{"util", "utils", "common", "types", "helpers", "helper", "manager", "misc", "base"}
	for _, p := range packages(t) {
		if name := filepath.Base(p.ImportPath); slices.Contains(drawers, name) {
			t.Errorf("%s: a package is named after what it owns, not %q", p.ImportPath, name)
		}
		doc := ""
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				doc += f.Doc.Text()
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s/%s has an init function", p.ImportPath, file)
				}
			}
		}
		if len(strings.Fields(doc)) < 15 && !strings.HasPrefix(p.ImportPath, "vswitch/cmd/") {
			t.Errorf("%s has no paragraph of package documentation", p.ImportPath)
		}
	}
}
