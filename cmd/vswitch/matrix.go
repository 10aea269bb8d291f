package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"vswitch/policy"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// matrixOptions say what a matrix of reachability is about.
type matrixOptions struct {
	wanted bool
	at     string // the port as it was written; empty: those that the receivers declare
	port   uint16 // at, or 0
	proto  string // empty: tcp
	by     string // label that groups pods
}

// reach is how much of what is asked may pass.
type reach uint8

const (
	reachNone reach = iota
	reachSome
	reachAll
	reachSelf // there is nothing to ask: sender and receiver are one
)

// reachMarks are the cells of the table, reachWords those of JSON.
var (
	reachMarks = [...]string{reachNone: "X", reachSome: "~", reachAll: ".", reachSelf: "-"}
	reachWords = [...]string{reachNone: "denied", reachSome: "some", reachAll: "allowed"}
)

// and puts two together.
func (r reach) and(other reach) reach {
	switch {
	case r == reachSelf:
		return other
	case other == reachSelf || r == other:
		return r
	}
	return reachSome
}

// matrix is who may reach whom, as policies have it: rows are senders, columns
// receivers. It asks the Set that switches ask, compiled for all pods at once,
// and not trace: between pods there is only policy that can say no, and every
// pair of 200 pods is asked in milliseconds.
type matrix struct {
	names []string // of rows and of columns
	cells [][]reach
	// policies says what denied the first of what was denied.
	policies [][]string
}

var matrixProtocols = map[string]uint8{"": 0, "tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "sctp": packet.ProtoSCTP, "icmp": packet.ProtoICMP}

// newMatrix asks for every two of pods. state is the whole cluster, for whose
// other pods rules may be.
func newMatrix(state *cluster.State, pods []*cluster.Pod, o *matrixOptions) *matrix {
	set := compileAll(state).Set()
	m := &matrix{}
	for _, from := range pods {
		row, policies := make([]reach, len(pods)), make([]string, len(pods))
		for i, to := range pods {
			row[i], policies[i] = o.ask(set, from, to)
		}
		m.names, m.cells, m.policies = append(m.names, from.Key().String()), append(m.cells, row), append(m.policies, policies)
	}
	if o.by != "" {
		return m.group(pods, o.by)
	}
	return m
}

// ask asks for all addresses that two pods have in common, and for all ports.
func (o *matrixOptions) ask(set *policy.Set, from, to *cluster.Pod) (r reach, by string) {
	r = reachSelf
	if from == to {
		return r, ""
	}
	for _, src := range from.IPs {
		for _, dst := range to.IPs {
			if src.Is4() != dst.Is4() {
				continue
			}
			for _, p := range o.ports(to, dst) {
				got, name := askPort(set, src, dst, p.Protocol, p.Port)
				if r = r.and(got); by == "" {
					by = name
				}
			}
		}
	}
	return r, by
}

func askPort(set *policy.Set, src, dst netip.Addr, proto uint8, port uint16) (reach, string) {
	from, to := packet.AddrFrom(src), packet.AddrFrom(dst)
	if v := set.Egress(&from, &to, proto, port); !v.Allowed {
		return reachNone, v.Policy()
	}
	if v := set.Ingress(&from, &to, proto, port); !v.Allowed {
		return reachNone, v.Policy()
	}
	return reachAll, ""
}

// ports are what a receiver is asked on: the one port that was given, or all that
// its containers declare; if there are none, TCP port 80.
func (o *matrixOptions) ports(to *cluster.Pod, addr netip.Addr) (ports []cluster.ContainerPort) {
	proto := matrixProtocols[o.proto]
	if proto == packet.ProtoICMP {
		if addr.Is6() {
			proto = packet.ProtoICMPv6
		}
		return []cluster.ContainerPort{{Protocol: proto}}
	}
	if o.port == 0 {
		for _, c := range to.Containers {
			for _, p := range c.Ports {
				if proto == 0 || p.Protocol == proto {
					ports = append(ports, p)
				}
			}
		}
	}
	if len(ports) > 0 {
		return ports
	}
	one := cluster.ContainerPort{Protocol: packet.ProtoTCP, Port: 80}
	if proto != 0 {
		one.Protocol = proto
	}
	if o.port != 0 {
		one.Port = o.port
	}
	return []cluster.ContainerPort{one}
}

// group puts pods with an equal value of a label together.
func (m *matrix) group(pods []*cluster.Pod, label string) *matrix {
	members := map[string][]int{}
	for i, p := range pods {
		value, ok := p.Labels[label]
		name := label + "=" + value
		if !ok {
			name = "!" + label
		}
		members[name] = append(members[name], i)
	}
	out := &matrix{names: slices.Sorted(maps.Keys(members))}
	for _, from := range out.names {
		row, policies := make([]reach, len(out.names)), make([]string, len(out.names))
		for i, to := range out.names {
			row[i] = reachSelf
			for _, a := range members[from] {
				for _, b := range members[to] {
					if row[i] = row[i].and(m.cells[a][b]); policies[i] == "" {
						policies[i] = m.policies[a][b]
					}
				}
			}
		}
		out.cells, out.policies = append(out.cells, row), append(out.policies, policies)
	}
	return out
}

// Widths of a matrix on a terminal, characters.
const (
	namedColumns  = 76 // up to which columns have names
	spacedColumns = 50 // columns, up to which cells have a space between them
)

// print writes the matrix for people: columns have the names of the rows, or,
// where they are many, their numbers.
func (m *matrix) print(w io.Writer) {
	width := 0
	for _, n := range m.names {
		width += utf8.RuneCountInString(n) + 2
	}
	if width <= namedColumns {
		t := table{header: append([]string{"FROM \\ TO"}, m.names...)}
		for i, name := range m.names {
			cells := []string{name}
			for _, r := range m.cells[i] {
				cells = append(cells, reachMarks[r])
			}
			t.add(cells...)
		}
		t.print(w)
	} else {
		m.printNumbered(w)
	}
	fmt.Fprintf(w, "\n%s\n", m.legend())
}

// printNumbered writes columns with numbers, digits one below the other.
func (m *matrix) printNumbered(w io.Writer) {
	digits := len(fmt.Sprint(len(m.names)))
	width := len("FROM \\ TO") - digits - 1
	for _, n := range m.names {
		width = max(width, utf8.RuneCountInString(n))
	}
	line := func(head string, cell func(i int) string) {
		var b strings.Builder
		fmt.Fprintf(&b, "%-*s ", digits+1+width, head)
		for i := range m.names {
			if len(m.names) <= spacedColumns || i%10 == 0 {
				b.WriteString(" ")
			}
			b.WriteString(cell(i))
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	for d := range digits {
		head := ""
		if d == digits-1 {
			head = "FROM \\ TO"
		}
		line(head, func(i int) string { return fmt.Sprintf("%*d", digits, i+1)[d : d+1] })
	}
	for i, name := range m.names {
		line(fmt.Sprintf("%*d %-*s", digits, i+1, width, name), func(j int) string { return reachMarks[m.cells[i][j]] })
	}
}

// legend says what the marks mean, and counts them.
func (m *matrix) legend() string {
	var n [len(reachMarks)]int
	for _, row := range m.cells {
		for _, r := range row {
			n[r]++
		}
	}
	out := []string{fmt.Sprintf(". allowed %d", n[reachAll]), fmt.Sprintf("X denied %d", n[reachNone])}
	if n[reachSome] > 0 {
		out = append(out, fmt.Sprintf("~ some of it %d", n[reachSome]))
	}
	return strings.Join(append(out, "- itself"), "   ")
}

// matrixPair is a cell as -o json prints it.
type matrixPair struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Reach string `json:"reach"` // "allowed", "denied", or "some" of it
	// Policy is what denied the first of what was denied.
	Policy string `json:"policy"`
}

func (m *matrix) pairs() []matrixPair {
	pairs := []matrixPair{}
	for i, from := range m.names {
		for j, to := range m.names {
			if r := m.cells[i][j]; r != reachSelf {
				pairs = append(pairs, matrixPair{from, to, reachWords[r], m.policies[i][j]})
			}
		}
	}
	return pairs
}

// check reports what cannot be had of a matrix.
func (o *matrixOptions) check(g *getOptions) error {
	_, known := matrixProtocols[o.proto]
	n, err := strconv.ParseUint(o.at, 10, 16)
	o.port = uint16(n)
	switch {
	case o.at != "" && (err != nil || n == 0):
		return fmt.Errorf("--port %q: it is a number from 1 to 65535", o.at)
	case !o.wanted && (o.port != 0 || o.proto != "" || o.by != ""):
		return errors.New("--port, --proto and --by are about --matrix; add it")
	case !o.wanted:
		return nil
	case !known:
		return fmt.Errorf("--proto %q: use tcp, udp, sctp or icmp", o.proto)
	case o.proto == "icmp" && o.port != 0:
		return errors.New("--port: ICMP has no ports")
	case len(g.kinds) != 1 || !g.kinds[0].policies || len(g.names) > 0:
		return errors.New("--matrix shows all policies together: vswitch get policies --matrix")
	case g.watch || g.node != "":
		return errors.New("--matrix is of the whole cluster as it is now; leave -w and --node out")
	case g.output == "yaml":
		return errors.New("--matrix comes as a table or in JSON")
	}
	return nil
}

// showMatrix prints the matrix of the pods of the namespace, or of all.
func (g *getOptions) showMatrix(ctx context.Context) error {
	s, err := g.state(ctx)
	if err != nil {
		return err
	}
	var pods []*cluster.Pod
	for _, p := range s.Pods {
		if isParty(p) && len(p.IPs) > 0 && (g.all || p.Namespace == g.namespace) {
			pods = append(pods, p)
		}
	}
	m := newMatrix(s.Objects.State(), pods, &g.matrix)
	if g.output == "json" {
		return printObject(g.out, m.pairs(), g.output)
	}
	if len(pods) == 0 {
		where := ""
		if !g.all {
			where = fmt.Sprintf(" in namespace %s (-A lists all)", g.namespace)
		}
		_, err := fmt.Fprintf(g.errOut, "No pods found%s.\n", where)
		return err
	}
	m.print(g.out)
	return nil
}
