package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"vswitch/vswitch/cluster"
)

// rollingUpdate: a Deployment is replaced, pod by pod, under its clients.
func rollingUpdate(ctx context.Context, d *demo) (string, error) {
	const client = "default/client"
	if err := d.ensure(ctx, role{node: "node1", name: client}); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if err := apply(ctx, d.stage, frontService); err != nil {
		return "", err
	}
	if err := rollout(ctx, d.stage, self, "v1"); err != nil {
		return "", err
	}
	svc, err := service(ctx, d.stage, frontKey, func(v *cluster.Service) bool { return len(v.ClusterIPs) > 0 })
	if err != nil {
		return "", err
	}
	vip := netip.AddrPortFrom(svc.ClusterIPs[0], webPort)
	// Pods know nothing of a service before their nodes do.
	if _, err := until(ctx, d.stage, client, vip, nil); err != nil {
		return "", err
	}
	d.say("%d clients on node1 send requests to %s all the time", loadClients, vip)
	d.detail("connect, one request, close, and again")
	stop, err := d.stage.Load(ctx, client, vip)
	if err != nil {
		return "", err
	}
	// The old pods have some time with the clients, and so have the new ones.
	rest(ctx)
	start := time.Now()
	if err := rollout(ctx, d.stage, self, "v2"); err != nil {
		_, _ = stop() // the first error says more
		return "", err
	}
	took := time.Since(start)
	rest(ctx)
	sum, err := stop()
	if err != nil {
		return "", err
	}
	d.say("all pods of Deployment store-fe were replaced, v1 by v2, in %s", took.Round(100*time.Millisecond))
	d.detail("%d requests, answered by %d pods, %d failed; the longest took %s",
		sum.Requests, len(sum.Pods), sum.Failed, sum.Longest.Round(100*time.Microsecond))
	switch {
	case sum.Failed > 0:
		return "", fmt.Errorf("%d of %d requests failed: %s", sum.Failed, sum.Requests, sum.Error)
	case sum.Requests < 100 || len(sum.Pods) < 5:
		return "", fmt.Errorf("%d requests, answered by %d pods, say nothing about an update of 4 pods", sum.Requests, len(sum.Pods))
	}
	return fmt.Sprintf("every pod was replaced, and none of %d requests failed", sum.Requests), nil
}

func rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(500 * time.Millisecond):
	}
}

// rollout brings a Deployment to a version, and waits until it is there and
// nothing of another version is left.
func rollout(ctx context.Context, s stage, self, version string) error {
	if err := apply(ctx, s, fmt.Sprintf(frontDeployment, self, version)); err != nil {
		return err
	}
	err := await(ctx, s, func(state *cluster.State) bool {
		ready := 0
		for p := range state.Pods.In(frontKey.Namespace) {
			if p.Owner != frontKey {
				continue
			}
			if !p.Ready || !p.Deleted.IsZero() || p.Labels["version"] != version {
				return false
			}
			ready++
		}
		return ready == 4
	})
	if err != nil {
		return fmt.Errorf("the rollout of %s does not end: %w", version, err)
	}
	return nil
}
