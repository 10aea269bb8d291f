package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// externalToService: a client outside comes in by a load balancer, which knows
// nodes, not pods.
func externalToService(ctx context.Context, d *demo) (said string, err error) {
	d.say("two nodes that treat clients as kube-proxy does; the only pod is on node2")
	kp, err := d.open(ctx, stageOptions{name: "demo-kube-proxy", nodes: 2, externalClient: agent.MasqueradeClient,
		services: talkServices, balancers: talkBalancers})
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := kp.Close(); cerr != nil && err == nil {
			err = cerr
		}
	}()
	pods, err := addPods(ctx, kp, role{node: "node2", name: "default/be-1", labels: backend})
	if err != nil {
		return "", err
	}
	d.say("applied is the talk's Service of type LoadBalancer, as an API server gave it back; + is what is this cluster's")
	lb, err := d.balancer(ctx, kp, talkBalancer, true)
	if err != nil {
		return "", err
	}
	if err := hasTalkAddresses(ctx, kp); err != nil {
		return "", err
	}
	if err := d.asKubeProxy(ctx, kp, lb, pods[0]); err != nil {
		return "", err
	}
	if err := d.onlyLocal(ctx, kp, pods[0]); err != nil {
		return "", err
	}
	if err := d.imbalance(ctx, kp, lb); err != nil {
		return "", err
	}
	if err := d.noTradeOff(ctx); err != nil {
		return "", err
	}
	return "the client's address is kept and every pod has its share, both at once", nil
}

// balancer applies a service of type LoadBalancer and waits for its address.
func (d *demo) balancer(ctx context.Context, s stage, manifest string, show bool) (netip.AddrPort, error) {
	if err := apply(ctx, s, manifest); err != nil {
		return netip.AddrPort{}, err
	}
	local := strings.Contains(manifest, "OnlyLocal")
	svc, err := service(ctx, s, storeKey, func(v *cluster.Service) bool {
		return len(v.Ingress) > 0 && v.ExternalLocal == local && v.Ports[0].NodePort != 0 && (v.HealthCheckPort != 0) == local
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	if show {
		if err := d.showObject(manifest, svc); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return netip.AddrPortFrom(svc.Ingress[0].IP, webPort), nil
}

// hasTalkAddresses: what was given out elsewhere is what the service has here.
func hasTalkAddresses(ctx context.Context, s stage) error {
	state, err := s.State(ctx, 0)
	if err != nil {
		return err
	}
	v := state.Service(storeKey)
	if len(v.ClusterIPs) != 1 || v.ClusterIPs[0] != talkIP || len(v.Ingress) != 1 || v.Ingress[0].IP != talkIngress {
		return fmt.Errorf("service %s came with %s and %s, and has %v and %+v", storeKey, talkIP, talkIngress, v.ClusterIPs, v.Ingress)
	}
	return nil
}

// asKubeProxy: any node takes the packet, and hides the client so that the
// answer returns through it.
func (d *demo) asKubeProxy(ctx context.Context, s stage, lb netip.AddrPort, pod actor) error {
	d.say("a) policy Cluster, as kube-proxy has it: one more hop, and SNAT")
	state, err := s.State(ctx, 0)
	if err != nil {
		return err
	}
	r, t, err := d.tripTo(ctx, s, outsideClient, lb, func(r reply, t trip) error {
		if err := t.paths(outsideClient, pod.Name, "node1", pod.Node); err != nil {
			return err
		}
		if !slices.Contains(state.Node("node1").Addresses, r.Seen.Addr()) {
			return fmt.Errorf("the pod saw %s, not the address of node1", r.Seen)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.showTrip(t)
	d.detail("%s saw %s, which is node1, and not the client", short(pod.Name), r.Seen.Addr())
	return nil
}

// onlyLocal: nodes take packets for their own pods only.
func (d *demo) onlyLocal(ctx context.Context, s stage, pod actor) error {
	d.say("b) the same with the talk's annotation")
	d.detail("service.beta.kubernetes.io/external-traffic: OnlyLocal")
	lb, err := d.balancer(ctx, s, talkOnlyLocal, false)
	if err != nil {
		return err
	}
	// Until the nodes know, they go on as before.
	r, t, err := d.tripTo(ctx, s, outsideClient, lb, func(r reply, t trip) error {
		if r.Seen != r.Local {
			return fmt.Errorf("the pod saw %s, not the client, %s", r.Seen, r.Local)
		}
		return t.paths(outsideClient, pod.Name, pod.Node, pod.Node)
	})
	if err != nil {
		return err
	}
	d.showTrip(t)
	d.detail("%s saw the client, %s, and there is no second hop", short(pod.Name), r.Seen.Addr())
	state, err := s.State(ctx, 0)
	if err != nil {
		return err
	}
	svc := state.Service(storeKey)
	at := func(node string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(state.Node(node).Addresses[0], port)
	}
	if _, err := until(ctx, s, outsideClient, at("node2", svc.Ports[0].NodePort), nil); err != nil {
		return fmt.Errorf("node2 does not serve its own pod: %w", err)
	}
	if err := untilSilent(ctx, s, at("node1", svc.Ports[0].NodePort)); err != nil {
		return fmt.Errorf("node1 has no pod of the service, and yet %w", err)
	}
	d.detail("node1, which has no pod of the service, is silent")
	return d.healthChecks(ctx, s, at("node1", svc.HealthCheckPort), at("node2", svc.HealthCheckPort))
}

// untilSilent asks until neither an answer nor a refusal comes.
func untilSilent(ctx context.Context, s stage, at netip.AddrPort) error {
	for deadline := time.Now().Add(patience); ; {
		r, err := one(ctx, s, outsideClient, at, 300*time.Millisecond)
		if err != nil && (strings.Contains(err.Error(), "timeout") || strings.Contains(err.Error(), "deadline exceeded")) {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			if err == nil {
				err = fmt.Errorf("%s answered by it", r.Pod)
			}
			return err
		}
	}
}

// healthChecks shows what the nodes tell load balancers.
func (d *demo) healthChecks(ctx context.Context, s stage, without, with netip.AddrPort) error {
	// Nodes open the port when they go by the service already.
	no, err := untilHealth(ctx, s, without, 503)
	if errors.Is(err, errNoHealth) {
		d.detail("left out: health checks at port %d: a node in memory is no process", with.Port())
		return nil
	}
	if err != nil {
		return err
	}
	yes, err := untilHealth(ctx, s, with, 200)
	if err != nil {
		return err
	}
	d.detail("health checks at port %d say so: %d on node1, %d on node2", with.Port(), no, yes)
	if no != 503 || yes != 200 {
		return fmt.Errorf("health checks say %d on node1 and %d on node2; 503 and 200 are right", no, yes)
	}
	return nil
}

// untilHealth asks until a node answers as wanted, and returns its last answer.
func untilHealth(ctx context.Context, s stage, at netip.AddrPort, want int) (code int, err error) {
	for deadline := time.Now().Add(patience); ; {
		code, err = s.Healthy(ctx, at)
		if err == nil && code == want || errors.Is(err, errNoHealth) || ctx.Err() != nil || time.Now().After(deadline) {
			return code, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// imbalance measures who gets how much where nodes have different numbers of pods.
func (d *demo) imbalance(ctx context.Context, s stage, lb netip.AddrPort) error {
	const n = 400
	_, err := addPods(ctx, s, role{node: "node1", name: "default/be-0", labels: backend},
		role{node: "node2", name: "default/be-2", labels: backend}, role{node: "node2", name: "default/be-3", labels: backend})
	if err != nil {
		return err
	}
	names := []string{"default/be-0", "default/be-1", "default/be-2", "default/be-3"}
	local, err := d.shares(ctx, s, outsideClient, lb, n, names...)
	if err != nil {
		return err
	}
	if _, err := d.balancer(ctx, s, talkBalancer, false); err != nil {
		return err
	}
	if err := untilMasqueraded(ctx, s, lb); err != nil {
		return err
	}
	cluster, err := d.shares(ctx, s, outsideClient, lb, n, names...)
	if err != nil {
		return err
	}
	d.say("the price, with one pod on node1 and three on node2: shares of %d requests", n)
	t := table{header: []string{"POD", "NODE", "CLUSTER", "ONLYLOCAL"}}
	for i, name := range names {
		node := "node2"
		if i == 0 {
			node = "node1"
		}
		_, pod := split(name)
		t.add(pod, node, percent(cluster[name], n), percent(local[name], n))
	}
	var text strings.Builder
	t.print(&text)
	for line := range strings.Lines(text.String()) {
		d.printf("     %s", line)
	}
	// 25 % and 50 % are expected; the middle is five standard deviations off both.
	if c, l := cluster[names[0]], local[names[0]]; c >= n*3/8 || l <= n*3/8 {
		return fmt.Errorf("%s got %d and %d of %d requests; about a quarter and a half are right", names[0], c, l, n)
	}
	return nil
}

// untilMasqueraded waits until both nodes know of policy Cluster: no pod sees
// the client any more.
func untilMasqueraded(ctx context.Context, s stage, lb netip.AddrPort) error {
	for deadline := time.Now().Add(patience); ; {
		replies, err := s.Ask(ctx, outsideClient, lb, 40, time.Second)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(replies, func(r reply) bool { return r.Error != "" || r.Seen.Addr() == r.Local.Addr() }) {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("pods still see the client at %s, after policy Cluster was applied", lb)
		}
	}
}

// noTradeOff: our own default.
func (d *demo) noTradeOff(ctx context.Context) error {
	err := d.ensure(ctx,
		role{node: "node1", name: "default/be-1", labels: backend},
		role{node: "node2", name: "default/be-2", labels: backend},
		role{node: "node3", name: "default/be-3", labels: backend})
	if err != nil {
		return err
	}
	d.say("c) policy Cluster, as these nodes have it by default: the first cluster again")
	d.detail("applied is what a user writes, and its status comes back (+)")
	lb, err := d.balancer(ctx, d.stage, storeBalancer, true)
	if err != nil {
		return err
	}
	r, t, err := d.tripTo(ctx, d.stage, outsideClient, lb, func(r reply, t trip) error {
		pod := d.pods[r.Pod]
		if t.entry() == pod.Node {
			return fmt.Errorf("packets come in at the pod's own node only")
		}
		if r.Seen != r.Local {
			return fmt.Errorf("the pod saw %s, not the client, %s", r.Seen, r.Local)
		}
		return t.paths(outsideClient, r.Pod, t.entry(), pod.Node)
	})
	if err != nil {
		return err
	}
	d.showTrip(t)
	d.detail("%s saw the client, %s, though the packet came in by %s", short(r.Pod), r.Seen.Addr(), t.entry())
	const n = 60
	got, err := d.shares(ctx, d.stage, outsideClient, lb, n, "default/be-1", "default/be-2", "default/be-3")
	if err != nil {
		return err
	}
	d.detail("%d requests: %s", n, countsOf(got))
	return nil
}

func percent(part, whole int) string { return fmt.Sprintf("%d %%", (part*100+whole/2)/whole) }
