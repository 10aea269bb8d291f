package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
)

// stage is a cluster that the demo plays on: real nodes and pods of this
// machine, or a cluster in memory.
type stage interface {
	// Apply makes objects the desired ones, and Delete removes them.
	Apply(ctx context.Context, o *cluster.Objects) error
	Delete(ctx context.Context, ref cluster.Ref) error
	// State waits for a State newer than a revision. At 0, it does not wait.
	State(ctx context.Context, after uint64) (*cluster.State, error)
	// Ask connects n times, one after the other, from a pod or from outside,
	// and says what became of each. A connection may take as long as limit.
	Ask(ctx context.Context, from string, to netip.AddrPort, n int, limit time.Duration) ([]reply, error)
	// Lookup resolves a name as a pod does, see lookup.
	Lookup(ctx context.Context, from, kind, name string) ([]string, error)
	// Load sends requests all the time, as several clients of a pod, until stop
	// is called.
	Load(ctx context.Context, from string, to netip.AddrPort) (stop func() (flooded, error), err error)
	// Stream sends bytes from a pod to another one's address, and compares
	// checksums. Halfway through it calls half, if that is not nil.
	Stream(ctx context.Context, from string, to netip.AddrPort, bytes int64, half func()) error
	// Healthy asks a node, from outside, whether a service has endpoints there,
	// as load balancers do, and returns the status code. It is errNoHealth if
	// nobody answers such questions.
	Healthy(ctx context.Context, at netip.AddrPort) (int, error)
	// Watch calls see for every packet at every port until stop is called.
	Watch(ctx context.Context, see func(agent.Sight)) (stop func(), err error)
	// Observe calls see for every event of every node that is wanted until stop is
	// called.
	Observe(ctx context.Context, f agent.EventFilter, see func(agent.Event)) (stop func(), err error)
	// InForce returns when all nodes go by what was applied.
	InForce(ctx context.Context) error
	// KillNode kills a node as a crash would, and waits until it has come back.
	KillNode(ctx context.Context, node string) error
	AddNode(ctx context.Context) (string, error)
	Close() error
}

// stageOptions are what stages differ by.
type stageOptions struct {
	name  string // of the cluster, where there may be several
	nodes int
	// externalClient is what policy Cluster does with clients outside.
	externalClient string
	// services and balancers are where services get addresses; nil: the defaults.
	services, balancers []netip.Prefix
}

// outsideClient is who asks from outside of the cluster.
const outsideClient = "outside"

var errNoHealth = errors.New("nobody answers at the health check port")

// actor is a pod of the demo.
type actor struct {
	Name string // "shop/front"
	Node string
	IPs  []netip.Addr
}

func (a actor) at(i int) netip.AddrPort { return netip.AddrPortFrom(a.IPs[i], demoPort) }

func (a actor) webAt() netip.AddrPort { return netip.AddrPortFrom(a.IPs[0], webPort) }

func (a actor) String() string { return fmt.Sprintf("%s (%s on %s)", a.Name, list(a.IPs), a.Node) }

// Ports where the demo's pods answer.
const (
	demoPort = 8080
	webPort  = 80
	deafPort = 9 // where they do not
)

var demoPorts = []int{demoPort, webPort}

// patience is how long the demo waits, at most, for what comes at once on a machine
// with nothing else to do.
const patience = 30 * time.Second

// role is a pod to be.
type role struct {
	node, name string
	labels     map[string]string
	unready    bool // its readiness probe fails
}

// object is the pod that plays r.
func (r role) object() (*cluster.Pod, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	namespace, pod := split(r.name)
	c := cluster.Container{
		Name: "demo", Command: []string{self, demoProcess, "serve", r.name},
		Ports: []cluster.ContainerPort{{Port: demoPort, Protocol: packet.ProtoTCP}},
	}
	if r.unready {
		c.Readiness = &cluster.Probe{Handler: cluster.Handler{TCP: &cluster.TCPSocket{Port: deafPort}}, Period: time.Second}
	}
	return &cluster.Pod{
		Meta: cluster.Meta{Namespace: namespace, Name: pod, Labels: r.labels},
		Node: r.node, RestartPolicy: cluster.RestartAlways, Containers: []cluster.Container{c},
	}, nil
}

// addPods starts pods on a stage and waits until they answer.
func addPods(ctx context.Context, s stage, roles ...role) ([]actor, error) {
	o := &cluster.Objects{}
	for _, r := range roles {
		p, err := r.object()
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(o.Namespaces, func(n *cluster.Namespace) bool { return n.Name == p.Namespace }) {
			o.Namespaces = append(o.Namespaces, &cluster.Namespace{Meta: cluster.Meta{Name: p.Namespace}})
		}
		o.Pods = append(o.Pods, p)
	}
	if err := s.Apply(ctx, o); err != nil {
		return nil, err
	}
	var actors []actor
	for _, r := range roles {
		p, err := awaitPod(ctx, s, r.name, func(p *cluster.Pod) bool {
			return p != nil && len(p.IPs) > 0 && (p.Ready || r.unready && p.Phase == cluster.PodRunning)
		})
		if err != nil {
			return nil, err
		}
		a := actor{Name: r.name, Node: p.Node, IPs: p.IPs}
		// It may run, and not listen yet.
		if _, err := until(ctx, s, a.Name, netip.AddrPortFrom(a.IPs[0], webPort), nil); err != nil {
			return nil, fmt.Errorf("%s does not answer: %w", a.Name, err)
		}
		actors = append(actors, a)
	}
	return actors, nil
}

func deletePod(ctx context.Context, s stage, name string) error {
	namespace, pod := split(name)
	if err := s.Delete(ctx, cluster.Ref{Kind: cluster.KindPod, Key: cluster.Key{Namespace: namespace, Name: pod}}); err != nil {
		return err
	}
	_, err := awaitPod(ctx, s, name, func(p *cluster.Pod) bool { return p == nil })
	return err
}

// awaitPod waits until a pod is as wanted.
func awaitPod(ctx context.Context, s stage, name string, wanted func(*cluster.Pod) bool) (p *cluster.Pod, err error) {
	namespace, pod := split(name)
	err = await(ctx, s, func(state *cluster.State) bool {
		p = state.Pod(cluster.Key{Namespace: namespace, Name: pod})
		return wanted(p)
	})
	if err != nil && p != nil && p.Reason != "" {
		return nil, fmt.Errorf("pod %s: %s", name, p.Reason)
	}
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	return p, nil
}

// await waits until a stage is as wanted.
func await(ctx context.Context, s stage, wanted func(*cluster.State) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	state, err := s.State(ctx, 0)
	for err == nil && !wanted(state) {
		state, err = s.State(ctx, state.Revision)
	}
	return err
}

// until asks again and again, as long as patience lasts, until the answer is as wanted,
// or there is one if wanted is nil.
func until(ctx context.Context, s stage, from string, to netip.AddrPort, wanted func(reply) bool) (r reply, err error) {
	for deadline := time.Now().Add(patience); ; {
		if r, err = one(ctx, s, from, to, 3*time.Second); err == nil {
			if wanted == nil || wanted(r) {
				return r, nil
			}
			err = fmt.Errorf("%s was answered by %s, which saw %s", from, r.Pod, r.Seen)
		}
		if time.Now().After(deadline) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// one asks once.
func one(ctx context.Context, s stage, from string, to netip.AddrPort, limit time.Duration) (reply, error) {
	all, err := s.Ask(ctx, from, to, 1, limit)
	switch {
	case err != nil:
		return reply{}, err
	case len(all) != 1:
		return reply{}, fmt.Errorf("%d answers to one question", len(all))
	case all[0].Error != "":
		return all[0], errors.New(all[0].Error)
	}
	return all[0], nil
}
