package gossip

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// The division depends on the bids alone; no two nodes get the same address,
// and nobody loses without a winner that is before it.
func TestGrant(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		var bids []bid
		for i := range 1 + r.IntN(8) {
			for range 1 + r.IntN(2) {
				bits := 20 + r.IntN(6)
				a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(16)), byte(r.IntN(256))})
				bids = append(bids, bid{fmt.Sprintf("n%d", i), Claim{Prefix: netip.PrefixFrom(a, bits).Masked(), Stamp: r.Uint64N(4)}})
			}
		}
		granted, conflicts := grant(bids)
		shuffled := slices.Clone(bids)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		g2, c2 := grant(shuffled)
		if !reflect.DeepEqual(granted, g2) || !slices.Equal(conflicts, c2) {
			t.Fatalf("%v is divided in two ways", bids)
		}
		for a, ps := range granted {
			for b, qs := range granted {
				for _, p := range ps {
					if a != b && overlapsAny(p, qs) {
						t.Fatalf("%v: %s and %s share %s", bids, a, b, p)
					}
				}
			}
		}
		for _, c := range conflicts {
			var older, younger []uint64
			for _, b := range bids {
				if b.node == c.Winner && b.Prefix == c.With {
					older = append(older, b.Stamp)
				}
				if b.node == c.Loser && b.Prefix == c.Prefix {
					younger = append(younger, b.Stamp)
				}
			}
			if !c.Prefix.Overlaps(c.With) || !slices.Contains(granted[c.Winner], c.With) || slices.Min(older) > slices.Max(younger) {
				t.Fatalf("%v is no conflict in %v", c, bids)
			}
		}
	}
}

func TestGrantOrder(t *testing.T) {
	p := prefix("10.0.0.0/24")
	for _, tc := range []struct {
		name string
		bids []bid
		want string
	}{
		{"lower stamp", []bid{{"a", Claim{Prefix: p, Stamp: 2}}, {"z", Claim{Prefix: p, Stamp: 1}}}, "z"},
		{"same stamp, lower name", []bid{{"b", Claim{Prefix: p, Stamp: 1}}, {"a", Claim{Prefix: p, Stamp: 1}}}, "a"},
		{"automatic or not is no matter", []bid{{"a", Claim{Prefix: p, Stamp: 1, Automatic: true}}, {"b", Claim{Prefix: p, Stamp: 2}}}, "a"},
		{"a blind claim loses", []bid{{"a", Claim{Prefix: p, Stamp: blindStamp + 1}}, {"b", Claim{Prefix: p, Stamp: 99}}}, "b"},
	} {
		granted, conflicts := grant(tc.bids)
		if len(granted[tc.want]) != 1 || len(conflicts) != 1 || conflicts[0].Winner != tc.want {
			t.Errorf("%s: %v %v", tc.name, granted, conflicts)
		}
	}
	// The loser of a loser is no loser.
	granted, conflicts := grant([]bid{
		{"a", Claim{Prefix: prefix("10.0.0.0/24"), Stamp: 1}},
		{"b", Claim{Prefix: prefix("10.0.0.0/23"), Stamp: 2}},
		{"c", Claim{Prefix: prefix("10.0.1.0/24"), Stamp: 3}},
	})
	if len(granted["c"]) != 1 || len(conflicts) != 1 {
		t.Errorf("%v %v", granted, conflicts)
	}
}

// free finds a range exactly where a search of all ranges finds one.
func TestFree(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, cluster := range []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:10:244::/56"), prefix("fd00::/60")} {
		for range 500 {
			width := r.IntN(7)
			mask := cluster.Bits() + width
			var taken []netip.Prefix
			for range r.IntN(1<<width + 3) {
				bits := cluster.Bits() + r.IntN(width+4)
				if r.IntN(4) > 0 {
					bits = mask
				}
				taken = append(taken, subnet(cluster, bits, r.Uint64N(1<<(bits-cluster.Bits()))))
			}
			got, ok := free(cluster, mask, fmt.Sprint(r.Uint32()), taken)
			want := false
			for i := range uint64(1) << width {
				want = want || !overlapsAny(subnet(cluster, mask, i), taken)
			}
			if ok != want {
				t.Fatalf("free(%s, %d, %v) = %v %v", cluster, mask, taken, got, ok)
			}
			if ok && (overlapsAny(got, taken) || !inside(got, []netip.Prefix{cluster}) || got.Bits() != mask || got != got.Masked()) {
				t.Fatalf("free(%s, %d, %v) = %v", cluster, mask, taken, got)
			}
		}
	}
	a, _ := free(prefix("10.244.0.0/16"), 24, "node-1", nil)
	b, _ := free(prefix("10.244.0.0/16"), 24, "node-1", []netip.Prefix{prefix("10.244.3.0/24")})
	if a != b {
		t.Errorf("the choice moves from %s to %s without need", a, b)
	}
}

func TestSubnet(t *testing.T) {
	for _, tc := range []struct {
		cluster string
		mask    int
		i       uint64
		want    string
	}{
		{"10.244.0.0/16", 24, 3, "10.244.3.0/24"},
		{"10.244.0.0/16", 20, 15, "10.244.240.0/20"},
		{"0.0.0.0/1", 32, 1<<31 - 1, "127.255.255.255/32"},
		{"fd00:10:244::/56", 64, 255, "fd00:10:244:ff::/64"},
		{"fd00::/48", 80, 1<<32 - 1, "fd00:0:0:ffff:ffff::/80"},
		{"fd00::/120", 128, 7, "fd00::7/128"},
		{"10.0.0.0/8", 8, 0, "10.0.0.0/8"},
	} {
		if got := subnet(prefix(tc.cluster), tc.mask, tc.i); got != prefix(tc.want) {
			t.Errorf("subnet(%s, %d, %d) = %s, want %s", tc.cluster, tc.mask, tc.i, got, tc.want)
		}
	}
}
