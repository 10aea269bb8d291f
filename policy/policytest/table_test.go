package policytest

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := Parse("dir/name.txtar", []byte("a comment\n-- cluster.yaml --\nkind: Pod\n-- matrix ipv6 UDP/53 --\n       x/a  node/n\nx/a     .     X\n\nfd::1   X     .\n-- matrix ICMP --\nx/a\nx/a .\n"))
	want := Table{Name: "name", File: "dir/name.txtar", Manifests: []byte("kind: Pod\n"), Matrices: []Matrix{
		{Name: "ipv6 UDP/53", IPv6: true, Proto: 17, Port: 53, From: []string{"x/a", "fd::1"}, To: []string{"x/a", "node/n"}, Allowed: [][]bool{{true, false}, {false, true}}},
		{Name: "ICMP", Proto: 1, From: []string{"x/a"}, To: []string{"x/a"}, Allowed: [][]bool{{true}}},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "at least one matrix",
		"-- cluster.yaml --\n":             "at least one matrix",
		"-- other --\n":                    "neither",
		"-- matrix HTTP/80 --\n":           "no protocol and port",
		"-- matrix TCP --\n":               "no protocol and port",
		"-- matrix ICMP/8 --\n":            "no protocol and port",
		"-- matrix TCP/x --\n":             "no port",
		"-- matrix TCP/80 --\n a b\n":      "no rows",
		"-- matrix TCP/80 --\n a b\na .\n": "1 cells for 2",
		"-- matrix TCP/80 --\n a\na ?\n":   "cells are . or X",
	} {
		if _, err := Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
