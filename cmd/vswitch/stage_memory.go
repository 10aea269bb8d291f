package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
	"vswitch/vswitch/fabric"
)

// memoryStage is a cluster in this process: the same controllers and switches,
// an in-memory wire between them, and gVisor netstacks as pods and as the client
// outside.
type memoryStage struct {
	control *control.Controller
	names   *agent.NameServer
	stop    context.CancelFunc
	wg      sync.WaitGroup

	// followed is the revision of the State that the fabric goes by.
	followed atomic.Uint64

	mu      sync.Mutex // guards what follows
	f       *fabric.Fabric
	pods    map[cluster.Key]*memoryPod
	outside *memoryOutside
	failed  error // of whatever went wrong in the background
}

// newMemoryStage starts a cluster.
func newMemoryStage(o stageOptions) (stage, error) {
	cfg := control.Default()
	cfg.DNS = true
	cfg.ServiceCIDRs, cfg.LoadBalancerCIDRs = o.services, o.balancers
	c, err := control.New(cluster.NewStore(), cfg)
	if err != nil {
		return nil, err
	}
	f, err := fabric.New(fabric.Config{
		Services: agent.ServiceConfig{CIDRs: cfg.ServiceRanges(), ExternalClient: o.externalClient},
	})
	if err != nil {
		return nil, err
	}
	f.Start()
	m := &memoryStage{control: c, f: f, pods: map[cluster.Key]*memoryPod{}}
	m.names, err = agent.NewNameServer(&agent.Config{
		ClusterCIDRs: cfg.ClusterCIDRs, Services: agent.ServiceConfig{CIDRs: cfg.ServiceRanges()},
		DNS: agent.DNSConfig{Domain: defaultDomain, ClusterOnly: true},
	}, c.Store(), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Close()
		return nil, err
	}
	if m.outside, err = newMemoryOutside(); err != nil {
		m.names.Close()
		f.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	m.wg.Go(func() { c.Run(ctx) })
	m.wg.Go(func() { m.follow(ctx) })
	for range o.nodes {
		if _, err := m.AddNode(ctx); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

func (m *memoryStage) Apply(_ context.Context, o *cluster.Objects) error {
	_, err := m.control.Apply(o, control.ApplyOptions{})
	return err
}

func (m *memoryStage) Delete(_ context.Context, ref cluster.Ref) error {
	_, err := m.control.Delete([]cluster.Ref{ref})
	return err
}

func (m *memoryStage) State(ctx context.Context, after uint64) (*cluster.State, error) {
	store := m.control.Store()
	w := store.Watch()
	defer w.Close()
	for {
		m.mu.Lock()
		err := m.failed
		m.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if s := store.State(); after == 0 || s.Revision > after {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.C():
			w.Next()
		}
	}
}

// dialer returns what opens connections as a pod, or as the client outside.
func (m *memoryStage) dialer(from string) (dialer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from == outsideClient {
		return m.outside.client.DialContext, nil
	}
	namespace, name := split(from)
	if p := m.pods[cluster.Key{Namespace: namespace, Name: name}]; p != nil && p.stack != nil {
		return p.stack.DialContext, nil
	}
	return nil, fmt.Errorf("no pod %s", from)
}

func (m *memoryStage) Ask(ctx context.Context, from string, to netip.AddrPort, n int, limit time.Duration) ([]reply, error) {
	dial, err := m.dialer(from)
	if err != nil {
		return nil, err
	}
	return ask(ctx, dial, to, n, limit), nil
}

// Lookup asks by the netstack of a pod. A short name is one of the pod's namespace.
func (m *memoryStage) Lookup(ctx context.Context, from, kind, name string) ([]string, error) {
	dial, err := m.dialer(from)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(name, ".") {
		namespace, _ := split(from)
		name += "." + namespace + ".svc." + defaultDomain + "."
	}
	servers := control.NameServers(m.control.Store().State())
	if len(servers) == 0 {
		return nil, errors.New("there is no name server")
	}
	at := netip.AddrPortFrom(servers[0], 53).String()
	return lookup(ctx, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, at)
	}}, kind, name)
}

func (m *memoryStage) Load(_ context.Context, from string, to netip.AddrPort) (func() (flooded, error), error) {
	dial, err := m.dialer(from)
	if err != nil {
		return nil, err
	}
	end, sum := make(chan struct{}), make(chan flooded, 1)
	go func() { sum <- flood(dial, to, end) }()
	return func() (flooded, error) {
		close(end)
		return <-sum, nil
	}, nil
}

func (m *memoryStage) Stream(ctx context.Context, from string, to netip.AddrPort, bytes int64, half func()) error {
	dial, err := m.dialer(from)
	if err != nil {
		return err
	}
	return stream(ctx, dial, to, bytes, half)
}

// Healthy: nodes in memory have no process that could answer.
func (m *memoryStage) Healthy(context.Context, netip.AddrPort) (int, error) { return 0, errNoHealth }

func (m *memoryStage) Watch(_ context.Context, see func(agent.Sight)) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var one sync.Mutex
	var stops []func()
	for _, n := range m.f.Nodes {
		stops = append(stops, agent.Watch(n.Switch, n.Name, "", func(s agent.Sight) {
			one.Lock()
			defer one.Unlock()
			see(s)
		}))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}, nil
}

func (m *memoryStage) Observe(ctx context.Context, f agent.EventFilter, see func(agent.Event)) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[netip.Addr]string{}
	for key, p := range m.pods {
		for _, ip := range p.IPs {
			names[ip.Addr()] = key.String()
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var one sync.Mutex
	var ends []<-chan struct{}
	for _, n := range m.f.Nodes {
		ends = append(ends, agent.Observe(ctx, n.Switch, n.Name, f, func(a netip.Addr) string { return names[a] }, func(e agent.Event) {
			one.Lock()
			defer one.Unlock()
			see(e)
		}))
	}
	return func() {
		cancel()
		for _, end := range ends {
			<-end
		}
	}, nil
}

// InForce waits until the fabric has followed the store.
func (m *memoryStage) InForce(ctx context.Context) error {
	want := m.control.Store().State().Revision
	for m.followed.Load() < want {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// KillNode makes the others lose a node, and find it again.
func (m *memoryStage) KillNode(_ context.Context, node string) error {
	m.mu.Lock()
	m.f.Fail(node)
	m.mu.Unlock()
	time.Sleep(300 * time.Millisecond)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.f.Return(node)
	return nil
}

func (m *memoryStage) AddNode(ctx context.Context) (string, error) {
	m.mu.Lock()
	n, err := m.f.AddNode()
	if err == nil {
		err = m.outside.connect(n)
	}
	m.mu.Unlock()
	if err != nil {
		return "", err
	}
	if err := m.Apply(ctx, &cluster.Objects{Nodes: []*cluster.Node{{
		Meta: cluster.Meta{Name: n.Name}, Addresses: n.Address, PodCIDRs: n.PodCIDRs,
	}}}); err != nil {
		return "", err
	}
	return n.Name, m.control.Store().Update(cluster.Local, func(tx *cluster.Txn) error {
		tx.Put(&cluster.Node{Meta: cluster.Meta{Name: n.Name}, Ready: true})
		return nil
	})
}

func (m *memoryStage) Close() error {
	m.stop()
	m.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range m.pods {
		errs = append(errs, p.end())
	}
	errs = append(errs, m.outside.close())
	m.names.Close()
	m.f.Close()
	return errors.Join(append(errs, m.control.Close())...)
}
