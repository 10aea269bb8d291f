package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/dns"
	"vswitch/vswitch/netns/netnstest"
	"vswitch/vswitch/stack"
)

// nameAsked is the name that these benchmarks ask for.
const nameAsked = "web.bench.svc.cluster.local."

// dnsAt is where a host serves names.
func dnsAt(h host) netip.AddrPort { return netip.AddrPortFrom(h.addr, 53) }

// oneName is a cluster with one service.
func oneName(tb testing.TB) *cluster.Store {
	store := cluster.NewStore()
	must(tb, store.Update(cluster.Desired, func(tx *cluster.Txn) error {
		tx.Put(&cluster.Service{Meta: cluster.Meta{Namespace: "bench", Name: "web"}, Type: cluster.ServiceClusterIP,
			ClusterIPs: []netip.Addr{serviceAt.Addr()}, IPFamilies: []cluster.IPFamily{cluster.IPv4}})
		return nil
	}))
	return store
}

// kernelNames is kernelBridge, and the name server is in the other pod's namespace.
func kernelNames(tb testing.TB) topology {
	t := kernelBridge(tb, 1450)
	z, err := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", TTL: dns.DefaultTTL})
	must(tb, err)
	all := (&cluster.State{}).Diff(oneName(tb).State())
	server := dns.NewServer(z.Follow(&all), dns.ServerConfig{})
	var c net.PacketConn
	in(tb, t.b.ns, func() (err error) {
		c, err = net.ListenPacket("udp", dnsAt(t.b).String())
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.ServePacket(ctx, c) }()
	tb.Cleanup(func() {
		cancel()
		must(tb, <-served)
	})
	t.at, t.names = dnsAt(t.b), true
	return t
}

// ourNames is a pod on a node that is the name server.
func ourNames(tb testing.TB) topology {
	cidr := netip.MustParsePrefix("10.244.1.0/24")
	t := topology{name: "vswitch", a: host{namespace(tb, "a"), addrA}, b: host{addr: addrB}}
	n := newNode(tb, "node1", cidr)
	n.pod(tb, "bench/a", t.a, 1450)
	names, err := agent.NewNameServer(&agent.Config{DNS: agent.DNSConfig{Domain: "cluster.local", ClusterOnly: true}}, oneName(tb), slog.New(slog.DiscardHandler))
	must(tb, err)
	names.Follow()
	served, err := names.Open(stack.Config{Name: "bench/dns", MAC: agent.MACOf(addrB), Addrs: []netip.Prefix{netip.PrefixFrom(addrB, cidr.Bits())},
		Gateways: []netip.Addr{agent.Gateway(cidr)}, MTU: 1450})
	must(tb, err)
	id, err := n.sw.Attach("bench/dns", served)
	must(tb, err)
	tb.Cleanup(func() {
		n.sw.Detach(id)
		must(tb, served.Close())
		names.Close()
	})
	n.compiler.SetPod(agent.LocalPod{Port: id, Name: "bench/dns", MAC: agent.MACOf(addrB), IPs: []netip.Addr{addrB}, MTU: 1450})
	n.run(tb)
	t.at, t.names = dnsAt(t.b), true
	return t
}

// BenchmarkNames: questions a second from a pod to the name server of its node, of
// so many clients that each wait for their answers, against the same server in a
// pod behind the kernel's bridge; and the median time of a single client's.
func BenchmarkNames(b *testing.B) {
	netnstest.Need(b)
	_, each := rounds()
	contenders := []topology{kernelNames(b), ourNames(b)}
	b.Run("clients=32", func(b *testing.B) {
		measure(b, "kq/s", contenders, func(t topology) float64 {
			r := t.run(b, job{Role: "lookup", Streams: 32, For: each})
			return float64(r.Packets) / r.Took.Seconds() / 1000
		})
	})
	b.Run("clients=1", func(b *testing.B) {
		measure(b, "µs", contenders, func(t topology) float64 {
			return float64(t.run(b, job{Role: "lookup", Streams: 1, For: each}).P50) / 1000
		})
	})
}

// TestNames checks that both contenders answer.
func TestNames(t *testing.T) {
	netnstest.Need(t)
	for _, top := range []topology{kernelNames(t), ourNames(t)} {
		top.settle(t)
	}
}

// lookup asks for one name again and again, from as many sockets at a time.
func (j job) lookup() error {
	m := new(wire.Msg).SetQuestion(nameAsked, wire.TypeA)
	question, err := m.Pack()
	if err != nil {
		return err
	}
	times, errs := make([][]time.Duration, j.Streams), make([]error, j.Streams)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range j.Streams {
		wg.Go(func() { times[i], errs[i] = j.lookups(question) })
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	return json.NewEncoder(os.Stdout).Encode(result{Packets: int64(len(all)), Took: took, P50: all[len(all)/2]})
}

// lookups asks from one socket. A datagram that was lost is asked again.
func (j job) lookups(question []byte) (times []time.Duration, err error) {
	c, err := net.Dial("udp", j.Addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	want := serviceAt.Addr().AsSlice()
	buf := make([]byte, 1500)
	for start := time.Now(); len(times) == 0 || time.Since(start) < j.For; {
		t := time.Now()
		n := 0
		for try := 0; n == 0; try++ {
			if _, err := c.Write(question); err != nil {
				return nil, err
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if n, err = c.Read(buf); err != nil && try == 30 {
				return nil, err
			}
		}
		if !bytes.HasSuffix(buf[:n], want) {
			return nil, fmt.Errorf("%x is no answer with %s", buf[:n], serviceAt.Addr())
		}
		times = append(times, time.Since(t))
	}
	return times, nil
}
