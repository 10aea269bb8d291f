package kube

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// seconds decodes itself from text.
type seconds time.Duration

func (s *seconds) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*s = seconds(v)
	return err
}

type testConfig struct {
	Name    string         `json:"name"`
	Workers int            `json:"workers"`
	Wait    seconds        `json:"wait"`
	Ranges  []netip.Prefix `json:"ranges"`
	Overlay struct {
		Listen netip.AddrPort `json:"listen"`
	} `json:"overlay"`
}

func TestDecodeConfig(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"all", "name: a\nworkers: 2\nwait: 1m\nranges: [10.0.0.0/8]\noverlay: {listen: '192.0.2.1:8472'}", ""},
		{"JSON", `{"name": "a", "workers": 2, "wait": "1m", "ranges": ["10.0.0.0/8"], "overlay": {"listen": "192.0.2.1:8472"}}`, ""},
		{"nothing", "# nothing\n", ""},
		{"unknown field", "# a node\nname: a\nworker: 2", `x:3: worker: unknown field; did you mean "workers"?`},
		{"types", "name: [a]\nworkers: many", "x:1: name: must be a string, not a list\nx:2: workers: must be a whole number, not the string \"many\""},
		{"text of a type", "overlay:\n  listen: nowhere", `x:2: overlay.listen: "nowhere" is not a valid AddrPort: not an ip:port`},
		{"in a list", "ranges:\n- 10.0.0.0/8\n- 10.0.0.0", `x:3: ranges[1]: "10.0.0.0" is not a valid Prefix: netip.ParsePrefix("10.0.0.0"): no '/'`},
		{"twice", "name: a\nname: b", `x:2: key "name" is given twice; remove one of the two`},
		{"syntax", "name: [", "x:1: did not find expected node content"},
		{"no mapping", "hello", "x:1: must be a mapping of fields to values"},
		{"two documents", "name: a\n---\nname: b", "x:3: document 2: is a second document; a configuration has one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := testConfig{Name: "default", Workers: 1}
			_, err := DecodeConfig("x", []byte(c.text), &got)
			if c.want != "" {
				if err == nil || err.Error() != c.want {
					t.Errorf("error %v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := testConfig{Name: "default", Workers: 1}
			if !strings.HasPrefix(c.text, "#") {
				want = testConfig{Name: "a", Workers: 2, Wait: seconds(time.Minute), Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
				want.Overlay.Listen = netip.MustParseAddrPort("192.0.2.1:8472")
			}
			if got.Name != want.Name || got.Workers != want.Workers || got.Wait != want.Wait || len(got.Ranges) != len(want.Ranges) || got.Overlay != want.Overlay {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	place, err := DecodeConfig("x", []byte("name: a\noverlay:\n  listen: '192.0.2.1:8472'\n"), &testConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{"name": "x:1", "overlay.listen": "x:3", "overlay.mtu": "x:2", "workers": "x:1"} {
		if got := place(field); got != want {
			t.Errorf("%s is at %s, want %s", field, got, want)
		}
	}
}
