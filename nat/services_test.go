package nat_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"vswitch/nat"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/packet"
)

// TestServices runs each testdata/services/*.txtar. Its lines set the scene or
// ask a question, whose answer is behind a colon:
//
//	node NAME [ZONE]               who looks at the services; before all else
//	addresses own IP… peers IP…    where node ports are served
//	range PREFIX…                  of cluster IPs
//	apply FILE                     Services and EndpointSlices, as kubectl does
//	delete KIND NAMESPACE/NAME
//	(pod|node|outside|ingress) IP -> IP:PORT PROTO : ANSWER
//
// An answer is all the backends that may be chosen, each with ! if the source is
// masqueraded; or "reject", "drop" or "none" and why.
func TestServices(t *testing.T) {
	archives, err := filepath.Glob("testdata/services/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no tables", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s := scene{t: t, files: map[string][]byte{}, services: map[cluster.Key]*cluster.Service{}, slices: map[cluster.Key]*cluster.EndpointSlice{}}
			for _, f := range a.Files {
				s.files[f.Name] = f.Data
			}
			n := 0
			for line := range strings.Lines(string(a.Comment)) {
				n++
				line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				question, want, ok := strings.Cut(line, " : ")
				if !ok {
					s.do(strings.Fields(line))
					continue
				}
				if got := s.ask(question); got != strings.Join(strings.Fields(want), " ") {
					t.Errorf("%s:%d: %s\n got %s\nwant %s", name, n, strings.TrimSpace(question), got, want)
				}
			}
		})
	}
}

// scene is what one node knows of services.
type scene struct {
	t        *testing.T
	files    map[string][]byte
	compiler *nat.Compiler
	services map[cluster.Key]*cluster.Service
	slices   map[cluster.Key]*cluster.EndpointSlice
}

func (s *scene) do(args []string) {
	switch args[0] {
	case "node":
		s.compiler = nat.NewCompiler(nat.Self{Name: args[1], Zone: append(args, "")[2]})
	case "addresses":
		lists := map[string][]netip.Addr{}
		which := ""
		for _, a := range args[1:] {
			if a == "own" || a == "peers" {
				which = a
				continue
			}
			lists[which] = append(lists[which], netip.MustParseAddr(a))
		}
		s.compiler.SetNodes(lists["own"], lists["peers"])
	case "range":
		var ps []netip.Prefix
		for _, a := range args[1:] {
			ps = append(ps, netip.MustParsePrefix(a))
		}
		s.compiler.SetRanges(ps)
	case "apply":
		o, _, err := kube.Parse(args[1], s.files[args[1]])
		if err != nil || o.Len() == 0 {
			s.t.Fatalf("%s: %d objects, %v", args[1], o.Len(), err)
		}
		touched := map[cluster.Key]bool{}
		for _, v := range o.Services {
			s.services[v.Key()] = v
			touched[v.Key()] = true
		}
		for _, v := range o.EndpointSlices {
			s.slices[v.Key()] = v
			touched[v.Service()] = true
		}
		s.set(touched)
	case "delete":
		ns, name, _ := strings.Cut(args[2], "/")
		key := cluster.Key{Namespace: ns, Name: name}
		if args[1] == "service" {
			delete(s.services, key)
			s.compiler.Delete(key)
			return
		}
		of := s.slices[key].Service()
		delete(s.slices, key)
		s.set(map[cluster.Key]bool{of: true})
	default:
		s.t.Fatalf("what is %q?", args)
	}
}

func (s *scene) set(touched map[cluster.Key]bool) {
	for key := range touched {
		var list []*cluster.EndpointSlice
		for _, sl := range s.slices {
			if sl.Service() == key {
				list = append(list, sl)
			}
		}
		if svc := s.services[key]; svc != nil {
			s.compiler.Set(svc, list)
		}
	}
}

var (
	origins = map[string]nat.Origin{"pod": nat.FromPod, "node": nat.FromNode, "outside": nat.FromOutside, "ingress": nat.FromIngress}
	protos  = map[string]uint8{"tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "sctp": packet.ProtoSCTP}
)

func (s *scene) ask(question string) string {
	q := strings.Fields(question)
	if len(q) != 5 || q[2] != "->" {
		s.t.Fatalf("%q is no question", question)
	}
	origin, ok := origins[q[0]]
	proto, ok2 := protos[q[4]]
	if !ok || !ok2 {
		s.t.Fatalf("%q: who, or what protocol?", question)
	}
	dst := netip.MustParseAddrPort(q[3])
	tuple := packet.Tuple{
		Src: packet.AddrFrom(netip.MustParseAddr(q[1])), SrcPort: 1000,
		Dst: packet.AddrFrom(dst.Addr()), DstPort: dst.Port(), Proto: proto,
	}
	services := s.compiler.Services()
	f, match := services.Lookup(&tuple, origin == nat.FromIngress)
	switch match {
	case nat.NoService:
		return "none"
	case nat.WrongPort:
		return "reject wrong-port"
	case nat.Unallocated:
		return "drop unallocated"
	}
	list, refusal := f.Backends(origin, &tuple.Src)
	switch refusal {
	case nat.NoEndpoints:
		return "reject no-endpoints"
	case nat.NoLocalEndpoints:
		return "drop no-local-endpoints"
	case nat.NotInRange:
		return "drop source-range"
	}
	var out []string
	for i := range list {
		mark := ""
		if f.Masquerades(origin, &tuple.Src, &list[i]) {
			mark = "!"
		}
		out = append(out, fmt.Sprint(list[i].AddrPort(), mark))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
