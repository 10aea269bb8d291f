package trace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/trace/servicetest"
)

// TestServiceTables runs testdata/services/*.txtar (package servicetest) with
// packets in memory, in both families and with both treatments of clients outside.
func TestServiceTables(t *testing.T) {
	for _, family := range servicetest.Families {
		for _, table := range servicetest.Read(t, "testdata/services", family, servicetest.Default()) {
			for _, mode := range []string{agent.MasqueradeClient, agent.PreserveClient} {
				t.Run(strings.Join([]string{table.Name, family.String(), mode}, "/"), func(t *testing.T) {
					cfg := agent.ServiceConfig{ExternalClient: mode, CIDRs: servicetest.ServiceCIDRs,
						MasqueradeAll: table.Options.MasqueradeAll, NodePortAddresses: table.Options.NodePortAddresses}
					c, _ := loadWith(t, servicetest.Nodes+table.Objects, cfg)
					for _, r := range table.Rows {
						runRow(t, c, &r, mode == agent.MasqueradeClient)
					}
				})
			}
		}
	}
}

func runRow(t *testing.T, c *Cluster, row *servicetest.Row, masquerade bool) {
	t.Helper()
	p := Probe{From: row.Source.String(), To: row.Target.String(), Proto: row.Proto, At: "node1"}
	if strings.HasPrefix(row.From, "node") {
		p.From = "node/" + row.From
	}
	if row.At != "" {
		p.At = row.At
	}
	r, err := c.Trace(t.Context(), p)
	if err != nil {
		t.Errorf("%s: %v", row.Text, err)
		return
	}
	got := addrPorts(t, r.Backends)
	good := false
	switch row.Fate {
	case servicetest.Delivered:
		anyOfNode := row.Loose && !masquerade
		good = r.Verdict == Delivered && slices.Equal(got, row.Endpoints) && r.SNAT == row.HiddenBy(masquerade) &&
			(anyOfNode || slices.Contains(r.Backends, r.Destination))
	case servicetest.Rejected:
		good = r.Verdict == Rejected
	case servicetest.Dropped:
		good = r.Verdict == Dropped
	case servicetest.Passed:
		good = len(got) == 0 && (r.Reason == "" || r.Reason == "no-route")
	}
	if !good {
		t.Errorf("%s:\n got %s (%s) at %s, snat %v, endpoints %v", row.Text, r.Verdict, r.Reason, r.Destination, r.SNAT, got)
	}
}

func addrPorts(t *testing.T, list []string) (out []netip.AddrPort) {
	t.Helper()
	for _, s := range list {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}
