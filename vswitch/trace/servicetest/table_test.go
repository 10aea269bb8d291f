package servicetest

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	text := "What it shows.\noptions: --masquerade-all --nodeport-addresses=$extraRange\n-- objects.yaml --\nip: $vip # $family\n" +
		"-- rows --\n# a comment\n\npod2 vip:80 tcp: snat b1 a1:9090 ~\nout node1:1 udp: drop\nout2@node3 lb:81 sctp: reject\na1 b1:7 icmp: pass\n"
	at := netip.MustParseAddrPort
	got, err := Parse("dir/name.txtar", []byte(text), IPv6, Default())
	want := Table{Name: "name", File: "dir/name.txtar", Family: IPv6, Objects: "ip: \"fd00:10:96::10\" # \"IPv6\"\n",
		Options: Options{MasqueradeAll: true, NodePortAddresses: []netip.Prefix{netip.MustParsePrefix("fd00:10:29::1:0/112")}},
		Rows: []Row{
			{Text: "pod2 vip:80 tcp: snat b1 a1:9090 ~", From: "pod2", Source: netip.MustParseAddr("fd00:10:244:2::9"), To: "vip", Target: at("[fd00:10:96::10]:80"), Proto: "tcp",
				Endpoints: []netip.AddrPort{at("[fd00:10:244:1::11]:9090"), at("[fd00:10:244:2::11]:8080")}, Masqueraded: true, Loose: true},
			{Text: "out node1:1 udp: drop", From: "out", At: "node1", Source: netip.MustParseAddr("2001:db8:1::7"), To: "node1", Target: at("[fd00:10:29::1]:1"), Proto: "udp", Fate: Dropped},
			{Text: "out2@node3 lb:81 sctp: reject", From: "out2", At: "node3", Source: netip.MustParseAddr("2001:db8:101::7"), To: "lb", Target: at("[2001:db8:2::10]:81"), Proto: "sctp", Fate: Rejected},
			{Text: "a1 b1:7 icmp: pass", From: "a1", Source: netip.MustParseAddr("fd00:10:244:1::11"), To: "b1", Target: at("[fd00:10:244:2::11]:7"), Proto: "icmp", Fate: Passed},
		}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

func TestHiddenBy(t *testing.T) {
	for _, tt := range []struct {
		row        string
		masquerade bool
		want       bool
	}{
		{"out vip:80 tcp: snat a1", true, true}, {"out vip:80 tcp: snat a1", false, false}, {"out vip:80 tcp: a1", true, false},
		{"pod vip:80 tcp: snat a1", true, true}, {"pod vip:80 tcp: snat a1", false, true}, {"pod vip:80 tcp: a1", false, false},
	} {
		r, err := parseRow(tt.row, IPv4, Default())
		if err != nil || r.HiddenBy(tt.masquerade) != tt.want {
			t.Errorf("%s, masquerade %v: %v, %v", tt.row, tt.masquerade, r.HiddenBy(tt.masquerade), err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                        "has objects.yaml and rows",
		"-- objects.yaml --\nx\n":                 "has objects.yaml and rows",
		"-- other --\n":                           "neither objects.yaml nor rows",
		"options: --x\n":                          "unknown option --x",
		"options: --nodeport-addresses=$vip\n":    "ParsePrefix",
		"-- objects.yaml --\n$no\n":               "there is no $no",
		"-- rows --\npod vip:80 tcp\n":            "is not FROM TO PROTO: FATE",
		"-- rows --\npod vip:80 http: a1\n":       "is no protocol",
		"-- rows --\nnobody vip:80 tcp: a1\n":     `there is no "nobody"`,
		"-- rows --\npod nothing:80 tcp: a1\n":    `there is no "nothing"`,
		"-- rows --\npod vip:80 tcp: a1 a9\n":     `there is no "a9"`,
		"-- rows --\npod vip:x tcp: a1\n":         "invalid syntax",
		"-- rows --\npod vip:80 tcp: snat\n":      "says neither endpoints",
		"-- rows --\npod vip:80 tcp: drop a1\n":   "says neither endpoints",
		"-- rows --\npod podRange:80 tcp: drop\n": "ParseAddr",
	} {
		if _, err := Parse("f", []byte(text), IPv4, Default()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
