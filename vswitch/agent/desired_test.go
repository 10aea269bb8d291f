package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vswitch/nat"
	"vswitch/vswitch"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// TestRevisions: who waits for a revision is told when it, or a later one, is in
// force, not when it was heard of.
func TestRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRevisions()
		got := make(chan uint64, 1)
		go func() {
			rev, err := r.wait(t.Context(), 5)
			if err != nil {
				t.Error(err)
			}
			got <- rev
		}()
		r.hear(7)
		r.enforce(4)
		synctest.Wait()
		select {
		case rev := <-got:
			t.Fatalf("told of %d, which is not in force", rev)
		default:
		}
		<-r.news
		r.enforce(r.heard.Load())
		if rev := <-got; rev != 7 {
			t.Errorf("told of %d, want 7", rev)
		}
		r.enforce(1) // by another writer, who counts anew
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := r.wait(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for what does not come: %v", err)
		}
	})
}

func testConn(t *testing.T, conns *nat.Table, from, to, backend string, port uint16, flags ...uint8) {
	t.Helper()
	a := func(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }
	orig := packet.Tuple{Proto: packet.ProtoTCP, Src: a(from), Dst: a(to), SrcPort: port, DstPort: 80}
	there := orig
	there.Dst = a(backend)
	id, err := conns.CreateMapped(&orig, &nat.Mapping{Reply: there.Reverse(), Service: 1}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range flags {
		conns.Track(id, nat.Dir(i%2), f, 100)
	}
}

// TestB16ForgetPod: all connections of a pod end, and who may wait at the other
// end is known by the addresses that he knows.
func TestB16ForgetPod(t *testing.T) {
	conns, err := nat.Open(nat.Config{Max: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer conns.Close()
	const pod, client, vip = "10.244.1.2", "10.244.2.2", "10.96.0.1"
	handshake := []uint8{packet.TCPSyn, packet.TCPSyn | packet.TCPAck, packet.TCPAck}
	testConn(t, conns, client, vip, pod, 1, handshake...)
	testConn(t, conns, client, pod, pod, 2, handshake...)
	testConn(t, conns, pod, vip, client, 3, handshake...)
	testConn(t, conns, client, pod, pod, 4, append(handshake, packet.TCPRst)...) // nobody waits
	testConn(t, conns, client, vip, "10.244.1.3", 5, handshake...)               // another's
	var got []string
	for _, p := range forgetPod(conns, packet.AddrFrom(netip.MustParseAddr(pod))) {
		got = append(got, netip.AddrPortFrom(p.As.Src.Netip(), p.As.SrcPort).String()+" "+netip.AddrPortFrom(p.As.Dst.Netip(), p.As.DstPort).String())
	}
	slices.Sort(got)
	want := []string{
		"10.244.1.2:3 10.244.2.2:80", // the server of the pod's own connection, which knows the pod
		"10.244.1.2:80 10.244.2.2:2", // the client that spoke to the pod itself
		"10.96.0.1:80 10.244.2.2:1",  // and the one that knows the service only
	}
	if !slices.Equal(got, want) {
		t.Errorf("prodded are %q, want %q", got, want)
	}
	if n := conns.Len(); n != 1 {
		t.Errorf("%d connections are left, want that of the other pod", n)
	}
}

func TestLostEndpoints(t *testing.T) {
	slice := func(port uint16, addrs ...string) *cluster.EndpointSlice {
		s := &cluster.EndpointSlice{Ports: []cluster.EndpointPort{{Port: port}}}
		for _, a := range addrs {
			s.Endpoints = append(s.Endpoints, cluster.Endpoint{Addresses: []netip.Addr{netip.MustParseAddr(a)}})
		}
		return s
	}
	for name, tc := range map[string]struct {
		old, now *cluster.EndpointSlice
		want     bool
	}{
		"new":          {nil, slice(80, "10.0.0.1"), false},
		"same":         {slice(80, "10.0.0.1"), slice(80, "10.0.0.1"), false},
		"one more":     {slice(80, "10.0.0.1"), slice(80, "10.0.0.2", "10.0.0.1"), false},
		"one less":     {slice(80, "10.0.0.1", "10.0.0.2"), slice(80, "10.0.0.2"), true},
		"another port": {slice(80, "10.0.0.1"), slice(81, "10.0.0.1"), true},
		"gone":         {slice(80, "10.0.0.1"), nil, true},
		"gone, empty":  {slice(80), nil, false},
	} {
		c := cluster.Changes{EndpointSlices: []cluster.Change[cluster.EndpointSlice]{{Old: tc.old, New: tc.now}}}
		if got := lostEndpoints(&c); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestDrain: young connections to the pod are waited for; old ones, closed ones
// and those of others are not.
func TestDrain(t *testing.T) {
	conns, err := nat.Open(nat.Config{Max: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer conns.Close()
	now := uint32(100)
	sw, err := vswitch.New(vswitch.Config{Inline: true, Conns: conns, Clock: func() time.Duration { return time.Duration(now) * time.Second }})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	const pod, client, vip = "10.244.1.2", "10.244.2.2", "10.96.0.1"
	addrs := []packet.Addr{packet.AddrFrom(netip.MustParseAddr(pod))}
	n := &Node{sw: sw, conns: conns}
	handshake := []uint8{packet.TCPSyn, packet.TCPSyn | packet.TCPAck, packet.TCPAck}
	testConn(t, conns, client, vip, pod, 1, append(handshake, packet.TCPRst)...)
	testConn(t, conns, client, vip, "10.244.1.3", 2, handshake...)
	if n.busy(addrs) {
		t.Error("a connection that is closed, or of another pod, is waited for")
	}
	testConn(t, conns, client, vip, pod, 3, handshake...)
	if !n.busy(addrs) {
		t.Error("a young connection is not waited for")
	}
	now += young + 1
	if n.busy(addrs) {
		t.Error("an old connection is waited for")
	}
}
