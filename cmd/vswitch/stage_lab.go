package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

// labStage is a cluster of real nodes and pods on this machine.
type labStage struct {
	client *lab.Client
	self   string
	keep   bool
}

// newLabStage starts a cluster.
func newLabStage(ctx context.Context, o stageOptions, keep bool) (stage, error) {
	config := agent.Default()
	config.Services.ExternalClient, config.Services.CIDRs = o.externalClient, o.services
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	client, err := lab.Start(ctx, lab.Options{
		Name: o.name, Config: config, Nodes: o.nodes, Objects: &cluster.Objects{}, Detach: keep, LoadBalancerCIDRs: o.balancers,
		DNS: lab.DNS{Serve: true, ClusterOnly: true},
	})
	if err != nil {
		return nil, err
	}
	return &labStage{client: client, self: self, keep: keep}, nil
}

func split(name string) (namespace, pod string) {
	namespace, pod, _ = strings.Cut(name, "/")
	return namespace, pod
}

func (s *labStage) Apply(ctx context.Context, o *cluster.Objects) error {
	_, err := s.client.Apply(ctx, o)
	return err
}

func (s *labStage) Delete(ctx context.Context, ref cluster.Ref) error {
	return s.client.Delete(ctx, []cluster.Ref{ref})
}

func (s *labStage) State(ctx context.Context, after uint64) (*cluster.State, error) {
	get := s.client.State
	if after > 0 {
		get = func(ctx context.Context) (lab.State, error) { return s.client.Watch(ctx, after) }
	}
	state, err := get(ctx)
	if err != nil {
		return nil, err
	}
	out := state.Objects.State()
	out.Revision = state.Revision
	return out, nil
}

// exec runs this program in a pod, or outside.
func (s *labStage) exec(ctx context.Context, from string, stdin, stdout *os.File, args ...string) error {
	req := lab.ExecRequest{Outside: from == outsideClient, Command: append([]string{s.self, demoProcess}, args...)}
	if !req.Outside {
		req.Namespace, req.Pod = split(from)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	code, err := s.client.Exec(ctx, req, stdin, stdout, w)
	w.Close()
	if err != nil {
		return err
	}
	if code != 0 {
		msg, _ := io.ReadAll(io.LimitReader(r, 4096)) // what there is
		return errors.New(strings.TrimSpace(string(msg)))
	}
	return nil
}

// output runs this program in a pod, or outside, and decodes what it prints.
func (s *labStage) output(ctx context.Context, from string, stdin *os.File, out any, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	read := make(chan error, 1)
	go func() { read <- json.NewDecoder(r).Decode(out) }()
	err = s.exec(ctx, from, stdin, w, args...)
	w.Close()
	if rerr := <-read; err == nil {
		err = rerr
	}
	return err
}

func (s *labStage) Ask(ctx context.Context, from string, to netip.AddrPort, n int, limit time.Duration) (all []reply, err error) {
	return all, s.output(ctx, from, nil, &all, "call", to.String(), strconv.Itoa(n), limit.String())
}

func (s *labStage) Healthy(ctx context.Context, at netip.AddrPort) (code int, err error) {
	return code, s.output(ctx, outsideClient, nil, &code, "health", at.String())
}

func (s *labStage) Lookup(ctx context.Context, from, kind, name string) (found []string, err error) {
	return found, s.output(ctx, from, nil, &found, "lookup", kind, name)
}

func (s *labStage) Load(ctx context.Context, from string, to netip.AddrPort) (func() (flooded, error), error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	var sum flooded
	ended := make(chan error, 1)
	go func() {
		defer r.Close()
		ended <- s.output(ctx, from, r, &sum, "load", to.String())
	}()
	return func() (flooded, error) {
		w.Close()
		err := <-ended
		return sum, err
	}, nil
}

func (s *labStage) Stream(ctx context.Context, from string, to netip.AddrPort, n int64, half func()) error {
	inR, inW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, inW.Close())
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer outR.Close()
		defer inW.Close()
		if line, err := bufio.NewReader(outR).ReadString('\n'); err == nil && line == "half\n" && half != nil {
			half()
		}
	})
	err = s.exec(ctx, from, inR, outW, "stream", to.String(), fmt.Sprint(n))
	outW.Close()
	wg.Wait()
	return err
}

func (s *labStage) Watch(ctx context.Context, see func(agent.Sight)) (func(), error) {
	nodes, err := s.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var ends []<-chan struct{}
	var mu sync.Mutex
	for _, n := range nodes {
		a := agent.NewClient(n.Socket)
		done, err := a.Sights(ctx, "", func(sight agent.Sight) {
			mu.Lock()
			defer mu.Unlock()
			see(sight)
		})
		if err != nil {
			cancel()
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		ends = append(ends, done)
	}
	return func() {
		time.Sleep(20 * time.Millisecond) // what is on its way through the sockets
		cancel()
		for _, end := range ends {
			<-end
		}
	}, nil
}

func (s *labStage) Observe(ctx context.Context, f agent.EventFilter, see func(agent.Event)) (func(), error) {
	nodes, err := s.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var ends []<-chan struct{}
	var mu sync.Mutex
	for _, n := range nodes {
		a := agent.NewClient(n.Socket)
		done, err := a.Events(ctx, f, func(e agent.Event) {
			mu.Lock()
			defer mu.Unlock()
			see(e)
		})
		if err != nil {
			cancel()
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		ends = append(ends, done)
	}
	return func() {
		cancel()
		for _, end := range ends {
			<-end
		}
	}, nil
}

// InForce waits longer than one WaitInForce does: the machine may be busy.
func (s *labStage) InForce(ctx context.Context) (err error) {
	for range 5 {
		if err = s.client.WaitInForce(ctx); !errors.Is(err, lab.ErrConflict) {
			return err
		}
	}
	return err
}

func (s *labStage) KillNode(ctx context.Context, node string) error {
	if err := s.client.KillNode(ctx, node); err != nil {
		return err
	}
	return s.awaitNode(ctx, node)
}

func (s *labStage) awaitNode(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		nodes, err := s.client.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Name == node && n.Ready {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w", node, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *labStage) AddNode(ctx context.Context) (string, error) {
	nodes, err := s.client.Nodes(ctx)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("node%d", len(nodes)+1)
	if err := s.client.AddNode(ctx, name); err != nil {
		return "", err
	}
	return name, s.awaitNode(ctx, name)
}

func (s *labStage) Close() error {
	defer s.client.Close()
	if s.keep {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.client.Down(ctx)
}
