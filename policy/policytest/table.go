// Package policytest reads truth tables of network policy: a cluster as
// Kubernetes manifests, and who may talk to whom in it. The same tables are run
// against package policy, through a fabric, and through a lab; it knows none of
// them, and what it gives are names and expectations.
//
// A table is a txtar file. Its comment says what it shows. The file cluster.yaml
// has the manifests: namespaces, nodes, and pods with their nodes and addresses.
// The file invalid.yaml, where there is one, has policies that are refused when
// they are applied, and isolate what they select. Files named "matrix" and a protocol and port follow, each with a table for it:
//
//	-- matrix TCP/80 --
//	         x/a  x/b  node/n1
//	x/a       .    X      .
//	y/a       X    .      .
//	10.9.9.9  X    X      .
//
// A row is a sender, a column a receiver: a pod, by namespace and name, a node
// or an address. A dot is allowed, an X denied. Pods and nodes take their first
// address, or in "matrix ipv6 TCP/80" their first of IPv6. Protocols without
// ports stand alone, as in "matrix ICMP".
package policytest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"vswitch/vswitch/packet"
)

// Table is a cluster and what holds in it.
type Table struct {
	Name      string // of the file, without its extension
	File      string // for messages
	Manifests []byte // Kubernetes YAML
	// Invalid are manifests of policies that are not valid; nil: none.
	Invalid  []byte
	Matrices []Matrix
}

// Matrix tells who may talk to whom by one protocol and port.
type Matrix struct {
	Name  string // "TCP/80", "ipv6 TCP/80" or "ICMP"
	IPv6  bool
	Proto uint8
	Port  uint16 // 0 for protocols without
	From  []string
	To    []string
	// Allowed is by sender, then by receiver.
	Allowed [][]bool
}

// Read returns the tables of a directory, in order of name. It fails the test
// if one of them is not understood, or if there is none.
func Read(t testing.TB, dir string) []Table {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("read truth tables: %s has none (%v)", dir, err)
	}
	var out []Table
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		table, err := Parse(f, data)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, table)
	}
	return out
}

// Parse reads one table; file is its name.
func Parse(file string, data []byte) (Table, error) {
	t := Table{File: file, Name: strings.TrimSuffix(filepath.Base(file), ".txtar")}
	for _, f := range txtar.Parse(data).Files {
		switch {
		case f.Name == "cluster.yaml" && t.Manifests == nil:
			t.Manifests = f.Data
			continue
		case f.Name == "invalid.yaml" && t.Invalid == nil:
			t.Invalid = f.Data
			continue
		}
		m, err := parseMatrix(f.Name, string(f.Data))
		if err != nil {
			return t, fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
		t.Matrices = append(t.Matrices, m)
	}
	if t.Manifests == nil || len(t.Matrices) == 0 {
		return t, fmt.Errorf("%s: a truth table has a file cluster.yaml and at least one matrix", file)
	}
	return t, nil
}

func parseMatrix(name, text string) (Matrix, error) {
	var m Matrix
	rest, ok := strings.CutPrefix(name, "matrix ")
	if !ok {
		return m, fmt.Errorf("is neither cluster.yaml, invalid.yaml nor a matrix")
	}
	m.Name = rest
	rest, m.IPv6 = strings.CutPrefix(rest, "ipv6 ")
	if err := m.setPort(rest); err != nil {
		return m, err
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case m.To == nil:
			m.To = fields
		default:
			if len(fields) != len(m.To)+1 {
				return m, fmt.Errorf("row %s has %d cells for %d receivers", fields[0], len(fields)-1, len(m.To))
			}
			row := make([]bool, len(m.To))
			for i, cell := range fields[1:] {
				if row[i] = cell == "."; !row[i] && cell != "X" {
					return m, fmt.Errorf("row %s has %q; cells are . or X", fields[0], cell)
				}
			}
			m.From, m.Allowed = append(m.From, fields[0]), append(m.Allowed, row)
		}
	}
	if len(m.From) == 0 {
		return m, fmt.Errorf("has no rows")
	}
	return m, nil
}

func (m *Matrix) setPort(s string) error {
	proto, port, ported := strings.Cut(s, "/")
	known := map[string]uint8{"TCP": packet.ProtoTCP, "UDP": packet.ProtoUDP, "SCTP": packet.ProtoSCTP, "ICMP": packet.ProtoICMP, "ICMPv6": packet.ProtoICMPv6}
	if m.Proto = known[proto]; m.Proto == 0 || ported != !strings.HasPrefix(proto, "ICMP") {
		return fmt.Errorf("%q is no protocol and port; write TCP/80, or ICMP", s)
	}
	if !ported {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no port", port)
	}
	m.Port = uint16(n)
	return nil
}
