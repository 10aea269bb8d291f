package gossip

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// onSockets starts n nodes on real sockets of 127.0.0.1, in real time.
func onSockets(t *testing.T, n int, edit func(*Config)) []*Gossip {
	var gs []*Gossip
	for i := 1; i <= n; i++ {
		c := (&sim{log: &logBook{}}).config(fmt.Sprintf("n%d", i), i)
		c.Listen = netip.MustParseAddrPort("127.0.0.1:0")
		c.Join = nil
		if i > 1 {
			c.Join = []netip.AddrPort{gs[0].Addr()}
		}
		edit(&c)
		g, err := Start(c)
		must0(t, err)
		t.Cleanup(func() { must0(t, g.Close()) })
		gs = append(gs, g)
	}
	return gs
}

func eventually(t *testing.T, what string, gs []*Gossip, ok func() bool) {
	t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > 30*time.Second {
			for _, g := range gs {
				t.Log(describe(g.Snapshot()))
			}
			t.Fatalf("not within 30 s: %s", what)
		}
		select {
		case <-gs[0].Changes():
		case <-time.After(2 * time.Millisecond):
		}
	}
	t.Logf("%s after %s", what, time.Since(begun).Round(time.Millisecond))
}

// The same over UDP and TCP: members find each other encrypted, pods spread,
// a goodbye and a crash are noticed, and rubbish on the port changes nothing.
func TestSockets(t *testing.T) {
	gs := onSockets(t, 6, withKeys(keyA))
	eventually(t, "6 nodes agree", gs, func() bool { return agreed(gs) })
	for i, g := range gs {
		must0(t, g.SetPods(pods(i+1, 100)))
	}
	eventually(t, "600 pods are everywhere", gs, func() bool { return agreed(gs) })

	r := rand.New(rand.NewPCG(1, 1))
	udp, err := net.Dial("udp", gs[0].Addr().String())
	must0(t, err)
	defer udp.Close()
	before := gs[0].Counters()
	for i := range 300 {
		b := make([]byte, 1+r.IntN(1200))
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		if i%2 == 0 {
			b = append(append([]byte{244, byte(len("vswitch"))}, "vswitch"...), b...)
		}
		_, _ = udp.Write(b)
		if i%30 == 0 {
			tcp, err := net.Dial("tcp", gs[0].Addr().String())
			must0(t, err)
			_, _ = tcp.Write(b)
			_ = tcp.Close()
		}
	}
	eventually(t, "rubbish is counted", gs, func() bool {
		n := gs[0].Counters()
		return n.Garbage+n.BadKey-before.Garbage-before.BadKey > 200
	})
	if !agreed(gs) {
		t.Error("rubbish changed the cluster")
	}

	must0(t, gs[5].Leave(context.Background()))
	must0(t, gs[5].Close())
	eventually(t, "the goodbye is heard", gs, func() bool { return agreed(gs[:5]) && gs[0].Snapshot().Node("n6").State == Left })
	must0(t, gs[4].Close())
	eventually(t, "the crash is noticed", gs, func() bool { return agreed(gs[:4]) && gs[0].Snapshot().Node("n5").State == Failed })
}

func TestStartSaysWhy(t *testing.T) {
	gs := onSockets(t, 1, func(*Config) {})
	c := gs[0].cfg
	c.Listen = gs[0].Addr()
	if _, err := Start(c); err == nil {
		t.Error("two nodes on one port")
	} else {
		t.Log(err)
	}
	c.Name = ""
	if _, err := Start(c); err == nil {
		t.Error("a node without a name")
	}
}

// A port drawn by the system is what others are told, also where the address
// for others is given.
func TestAdvertise(t *testing.T) {
	gs := onSockets(t, 1, func(c *Config) {
		c.Listen = netip.MustParseAddrPort("0.0.0.0:0")
		c.Advertise = netip.MustParseAddrPort("127.0.0.1:0")
	})
	if a := gs[0].Addr(); a.Addr() != netip.MustParseAddr("127.0.0.1") || a.Port() == 0 {
		t.Error(a)
	}
}
