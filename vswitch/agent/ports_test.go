package agent

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPortCheck(t *testing.T) {
	long := "/" + strings.Repeat("x", 107)
	for _, tt := range []struct {
		name, system string
		r            PortSpec
		want         string // of the error; empty: none
	}{
		{"tap", "linux", PortSpec{NetNS: "/ns"}, ""},
		{"plain tap", "linux", PortSpec{Kind: PortPlainTAP, NetNS: "/ns", MAC: "52:54:00:12:34:56"}, ""},
		{"plain tap on Windows", "windows", PortSpec{Kind: PortPlainTAP, Interface: "vswitch"}, ""},
		{"tun", "linux", PortSpec{Kind: PortTUN, NetNS: "/ns"}, ""},
		{"stream", "linux", PortSpec{Kind: PortStream, Socket: "/s"}, ""},
		{"stream that connects", "darwin", PortSpec{Kind: PortStream, Socket: "/s", Connect: true}, ""},
		{"dgram", "freebsd", PortSpec{Kind: PortDgram, Socket: "/s", Remote: "/r"}, ""},
		{"unknown", "linux", PortSpec{Kind: "macvtap"}, `kind "macvtap" is unknown; use tap, tap-plain, tun, stream, dgram or dns`},
		{"another system's", "darwin", PortSpec{NetNS: "/ns"}, "kind tap does not exist on darwin; use tap-plain, tun, stream, dgram or dns"},
		{"no datagrams", "windows", PortSpec{Kind: PortDgram, Socket: "/s"}, "kind dgram does not exist on windows; use tap-plain, tun, stream or dns"},
		{"no namespace", "linux", PortSpec{Kind: PortTUN}, "netns is needed for kind tun"},
		{"namespace elsewhere", "freebsd", PortSpec{Kind: PortTUN, NetNS: "/ns"}, "netns is of no use: freebsd has no network namespaces"},
		{"socket of a device", "linux", PortSpec{NetNS: "/ns", Socket: "/s"}, "socket, remote and connect are of no use with kind tap"},
		{"namespace of a machine", "linux", PortSpec{Kind: PortStream, Socket: "/s", NetNS: "/ns"}, "netns and interface are of no use with kind stream"},
		{"no socket", "linux", PortSpec{Kind: PortDgram}, "socket is needed for kind dgram"},
		{"relative", "linux", PortSpec{Kind: PortDgram, Socket: "vm.sock"}, "socket vm.sock is no absolute path"},
		{"long", "linux", PortSpec{Kind: PortStream, Socket: long}, "has more than 107 bytes; choose a shorter path"},
		{"long remote", "darwin", PortSpec{Kind: PortDgram, Socket: "/s", Remote: long}, "has more than 103 bytes"},
		{"remote of a stream", "linux", PortSpec{Kind: PortStream, Socket: "/s", Remote: "/r"}, "remote is of no use with kind stream"},
		{"connect of datagrams", "linux", PortSpec{Kind: PortDgram, Socket: "/s", Connect: true}, "connect is of no use with kind dgram"},
		{"no MAC", "linux", PortSpec{NetNS: "/ns", MAC: "52:54"}, `mac "52:54" is no address of 6 bytes`},
		{"MAC of a group", "linux", PortSpec{NetNS: "/ns", MAC: "01:00:5e:00:00:01"}, "belongs to no single machine"},
		{"MAC of a TUN", "linux", PortSpec{Kind: PortTUN, NetNS: "/ns", MAC: "52:54:00:12:34:56"}, "mac is of no use with kind tun"},
		{"DNS", "windows", PortSpec{Kind: PortDNS, MTU: 1500}, ""},
		{"DNS somewhere", "linux", PortSpec{Kind: PortDNS, NetNS: "/ns"}, "kind dns has nothing but mac and mtu"},
		{"MTU", "linux", PortSpec{NetNS: "/ns", MTU: 900}, "mtu 900 is outside 1280..65521"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.r.check(tt.system)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestPortFields: what a port is stands beside what else is said of its pod.
func TestPortFields(t *testing.T) {
	const port = `"kind":"tap","netns":"/ns","interface":"eth1","socket":"/s","connect":true,"remote":"/r","mac":"m","mtu":1500`
	for _, tt := range []struct {
		text string
		v    any
	}{
		{`{"name":"vms/a",` + port + `}`, &PortConfig{}},
		{`{"namespace":"vms","name":"a","uid":"u",` + port + `}`, &PodRequest{}},
		{`{"namespace":"vms","name":"a","uid":"u","node":"n","ips":["10.244.1.2"],` + port + `}`, &PodStatus{}},
	} {
		d := json.NewDecoder(strings.NewReader(tt.text))
		d.DisallowUnknownFields()
		if err := d.Decode(tt.v); err != nil {
			t.Fatalf("%T: %v", tt.v, err)
		}
		if got, err := json.Marshal(tt.v); err != nil || string(got) != tt.text {
			t.Errorf("%T: %s (%v), want %s", tt.v, got, err, tt.text)
		}
	}
}

func TestValidatePorts(t *testing.T) {
	c := Default()
	c.Name, c.RuntimeDir, c.StateDir = "node1", "/run/x", "/var/x"
	c.Ports = []PortConfig{
		{Name: "vms/a", PortSpec: PortSpec{Kind: PortStream, Socket: "/run/a", MAC: "52:54:00:00:00:01"}, Addresses: addrs("10.244.1.20")},
		{Name: "vms/b", PortSpec: PortSpec{Kind: PortStream, Socket: "/run/b"}},
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	c.Ports = append(c.Ports,
		PortConfig{Name: "vms/a", Addresses: addrs("10.244.1.20"), PortSpec: PortSpec{Kind: PortStream, Socket: "/run//a", MAC: "52-54-00-00-00-01"}},
		PortConfig{Name: "c", PortSpec: PortSpec{Kind: "veth"}})
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		"ports[2]: name vms/a is that of ports[0], too", "ports[2]: socket /run/a is that of ports[0], too",
		"ports[2]: mac 52:54:00:00:00:01 is that of ports[0], too", "ports[2]: address 10.244.1.20 is that of ports[0], too",
		`ports[3].name: "c" is no NAMESPACE/NAME`, `ports[3]: kind "veth" is unknown; use `,
	}
	got := strings.Split(err.Error(), "\n")
	for i, l := range got {
		if i >= len(want) || !strings.HasPrefix(l, want[i]) {
			t.Fatalf("got\n%s\nwant\n%s", err, strings.Join(want, "\n"))
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d errors, want %d", len(got), len(want))
	}
}
