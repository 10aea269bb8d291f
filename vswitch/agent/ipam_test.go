package agent

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestPoolOrder(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPool(netip.MustParsePrefix("10.1.0.0/29"))
	var got []netip.Addr
	for {
		a, err := p.get("x", now, time.Minute)
		if err != nil {
			if !errors.Is(err, ErrNoAddress) {
				t.Fatal(err)
			}
			break
		}
		got = append(got, a)
	}
	// .0 is the node's, .1 the gateway's, .7 the broadcast address.
	if len(got) != 5 || got[0] != netip.MustParseAddr("10.1.0.2") || got[4] != netip.MustParseAddr("10.1.0.6") {
		t.Fatalf("a /29 gave %v", got)
	}
	p.put(got[3], now)
	p.put(got[1], now.Add(time.Second))
	if a, err := p.get("y", now.Add(59*time.Second), time.Minute); err == nil {
		t.Errorf("%s was given out while it rested", a)
	}
	for i, want := range []netip.Addr{got[3], got[1]} {
		if a, err := p.get("y", now.Add(2*time.Minute), time.Minute); err != nil || a != want {
			t.Errorf("reuse %d gave %s, %v; want %s, the one that rested longest", i, a, err, want)
		}
	}
}

func TestPoolFreshBeforeUsed(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPool(netip.MustParsePrefix("10.1.0.0/24"))
	a, _ := p.get("x", now, time.Minute)
	p.put(a, now)
	if b, err := p.get("y", now.Add(time.Hour), time.Minute); err != nil || b == a {
		t.Errorf("got %s, %v: a used address came before fresh ones", b, err)
	}
}

func TestPoolTake(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.1.0.0/24"))
	for addr, ok := range map[string]bool{
		"10.1.0.9": true, "10.1.0.1": false, "10.1.0.0": false, "10.1.0.255": false, "10.2.0.9": false, "fd00::9": false,
	} {
		if err := p.take(netip.MustParseAddr(addr), "x"); (err == nil) != ok {
			t.Errorf("take(%s) = %v", addr, err)
		}
	}
	a := netip.MustParseAddr("10.1.0.9")
	if err := p.take(a, "x"); err != nil {
		t.Errorf("the owner may not take its address again: %v", err)
	}
	if err := p.take(a, "y"); err == nil {
		t.Error("somebody else took an address in use")
	}
	for range 252 {
		if b, err := p.get("z", time.Unix(0, 0), 0); err != nil || b == a {
			t.Fatalf("get = %s, %v", b, err)
		}
	}
}

func TestPoolIPv6(t *testing.T) {
	p := newPool(netip.MustParsePrefix("fd00:10:244:1::/64"))
	a, err := p.get("x", time.Unix(0, 0), time.Minute)
	if err != nil || a != netip.MustParseAddr("fd00:10:244:1::2") {
		t.Errorf("got %s, %v", a, err)
	}
}
