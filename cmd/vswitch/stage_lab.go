package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
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

func newLabStage(ctx context.Context, name string, nodes int, keep bool) (stage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	client, err := lab.Start(ctx, lab.Options{
		Name: name, Config: agent.Default(), Nodes: nodes, Objects: &cluster.Objects{}, Detach: keep,
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

func (s *labStage) AddPod(ctx context.Context, node, name string) (actor, error) {
	namespace, pod := split(name)
	_, err := s.client.Apply(ctx, &cluster.Objects{
		Namespaces: []*cluster.Namespace{{Meta: cluster.Meta{Name: namespace}}},
		Pods: []*cluster.Pod{{
			Meta: cluster.Meta{Namespace: namespace, Name: pod}, Node: node, RestartPolicy: cluster.RestartAlways,
			Containers: []cluster.Container{{
				Name: "demo", Command: []string{s.self, demoProcess, "serve", name},
				Ports: []cluster.ContainerPort{{Port: demoPort, Protocol: 6}},
			}},
		}},
	})
	if err != nil {
		return actor{}, err
	}
	p, err := s.await(ctx, name, func(p *cluster.Pod) bool { return p != nil && p.Ready && len(p.IPs) > 0 })
	if err != nil {
		return actor{}, err
	}
	return actor{Name: name, Node: p.Node, IPs: p.IPs}, nil
}

func (s *labStage) DeletePod(ctx context.Context, name string) error {
	namespace, pod := split(name)
	if err := s.client.Delete(ctx, []cluster.Ref{{Kind: cluster.KindPod, Key: cluster.Key{Namespace: namespace, Name: pod}}}); err != nil {
		return err
	}
	_, err := s.await(ctx, name, func(p *cluster.Pod) bool { return p == nil })
	return err
}

// await watches a pod until it is as wanted.
func (s *labStage) await(ctx context.Context, name string, wanted func(*cluster.Pod) bool) (*cluster.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	state, err := s.client.State(ctx)
	var last *cluster.Pod
	for err == nil {
		last = nil
		for _, p := range state.Pods {
			if p.Namespace+"/"+p.Name == name {
				last = p
			}
		}
		if wanted(last) {
			return last, nil
		}
		state, err = s.client.Watch(ctx, state.Revision)
	}
	if last != nil && last.Reason != "" {
		return nil, fmt.Errorf("pod %s: %s", name, last.Reason)
	}
	return nil, fmt.Errorf("pod %s: %w", name, err)
}

// exec runs this program in a pod.
func (s *labStage) exec(ctx context.Context, from string, stdin, stdout *os.File, args ...string) error {
	namespace, pod := split(from)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	code, err := s.client.Exec(ctx, lab.ExecRequest{
		Namespace: namespace, Pod: pod, Command: append([]string{s.self, demoProcess}, args...),
	}, stdin, stdout, w)
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

func (s *labStage) Call(ctx context.Context, from string, to netip.AddrPort) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return "", err
	}
	defer null.Close()
	err = s.exec(ctx, from, null, w, "call", to.String())
	w.Close()
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(io.LimitReader(r, 4096))
	return string(bytes.TrimSpace(out)), err
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

func (s *labStage) KillNode(ctx context.Context, node string) error {
	if err := s.client.KillNode(ctx, node); err != nil {
		return err
	}
	return s.awaitNode(ctx, node)
}

func (s *labStage) awaitNode(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
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
