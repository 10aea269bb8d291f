package dns_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/txtar"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/dns"
	"vswitch/vswitch/kube"
)

var update = flag.Bool("update", false, "write the answers into testdata")

// static returns the cluster of some manifests, with its defaults.
func static(t testing.TB, manifests string, change func(*control.Config)) (*cluster.State, control.Config) {
	t.Helper()
	objects, _, err := kube.Parse("manifests.yaml", []byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	cfg := control.Default()
	if change != nil {
		change(&cfg)
	}
	s, err := control.Static(cfg, objects)
	if err != nil {
		t.Fatal(err)
	}
	return s, cfg
}

// zoneOf returns the zone of a state.
func zoneOf(t testing.TB, s *cluster.State, reverse []netip.Prefix) *dns.Zone {
	t.Helper()
	z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", Reverse: reverse, TTL: 5,
		NameServers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}})
	if err != nil {
		t.Fatal(err)
	}
	c := (&cluster.State{}).Diff(s)
	return z.Follow(&c)
}

// TestZone asks the questions of testdata/zone. A question is a line "? NAME TYPE";
// what is expected follows: the code, and the records in the form of dig, without
// TTL where it is the zone's, behind "+" in the authority and "*" in the additional section.
func TestZone(t *testing.T) {
	files, err := filepath.Glob("testdata/zone/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			state, cfg := static(t, string(a.Files[0].Data), nil)
			z := zoneOf(t, state, append(slices.Clone(cfg.ClusterCIDRs), cfg.ServiceRanges()...))
			var got strings.Builder
			for line := range strings.Lines(string(a.Files[1].Data)) {
				if q, ok := strings.CutPrefix(line, "? "); ok {
					f := strings.Fields(q)
					fmt.Fprintf(&got, "? %s %s\n%s\n", f[0], f[1], dig(z, f[0], f[1]))
				} else if strings.HasPrefix(line, "#") {
					got.WriteString(line)
				}
			}
			if *update {
				a.Files[1].Data = []byte(got.String())
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(a.Files[1].Data); got.String() != want {
				t.Errorf("got:\n%swant:\n%s", got.String(), want)
			}
		})
	}
}

// dig returns what a zone says, a record a line, sorted within a section.
func dig(z *dns.Zone, name, qtype string) string {
	a, ours := z.Answer(dns.Question{Name: name, Type: wire.StringToType[qtype], Size: 65535})
	if !ours {
		return "not ours\n"
	}
	out := wire.RcodeToString[a.Rcode]
	if a.Follow != "" {
		out += ", follow " + a.Follow
	}
	out += "\n"
	for _, s := range []struct {
		mark string
		list []wire.RR
	}{{"", a.Answer}, {"+ ", a.Authority}, {"* ", a.Extra}} {
		var lines []string
		for _, r := range s.list {
			lines = append(lines, s.mark+strings.ReplaceAll(strings.Replace(r.String(), "\t5\tIN\t", "\t", 1), "\t", " ")+"\n")
		}
		if len(a.Answer) == 0 || a.Answer[0].Header().Rrtype != wire.TypeCNAME {
			slices.Sort(lines)
		}
		out += strings.Join(lines, "")
	}
	return out
}
