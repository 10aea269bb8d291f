package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"vswitch/vswitch/cluster"
)

// TestNodeSpace: each node is in the network, with its own addresses, for its
// programs and for its pods of hostNetwork, and stays there when its process dies.
func TestNodeSpace(t *testing.T) {
	t.Setenv(realNodes, "1")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := options(newTestPod("near", exe, "test-echo"), newTestPod("far", exe, "test-echo"), newTestPod("host", exe, "test-echo"))
	o.Nodes = 2
	for i, node := range []string{"node1", "node2", "node2"} {
		o.Objects.Pods[i].Node = node
	}
	o.Objects.Pods[2].HostNetwork = true
	c := start(t, o)
	listening(t, c, "tcp", echoPort, "near", "far", "host")
	nodes := map[string]*cluster.Node{}
	s, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		nodes[n.Name] = n
	}
	near, far, host := getPod(t, c, "near"), getPod(t, c, "far"), getPod(t, c, "host")
	if fmt.Sprint(host.IPs) != fmt.Sprint(nodes["node2"].Addresses) || len(host.IPs) != 2 {
		t.Fatalf("the pod of hostNetwork has %v, its node %v", host.IPs, nodes["node2"].Addresses)
	}
	place := map[string]ExecRequest{"node1": {Node: "node1"}, "node2": {Node: "node2"}, "near": {Pod: "near"}, "far": {Pod: "far"}, "host": {Pod: "host"}}
	talk := func(from string, to ...*cluster.Pod) {
		t.Helper()
		r := place[from]
		r.Command = []string{exe, "test-talk", "1048576"}
		for _, p := range to {
			for _, ip := range p.IPs {
				r.Command = append(r.Command, ip.String())
			}
		}
		if got, _ := run(t, c, r, ""); got != "done\n" {
			t.Errorf("from %s: %s", from, got)
		}
	}
	ping := func(from string, to *cluster.Node) {
		t.Helper()
		for _, ip := range to.Addresses {
			echoes(t, c, place[from], ip.String(), "20000")
		}
	}
	all := func() {
		t.Helper()
		talk("node1", near, far, host)
		talk("node2", near, far, host)
		talk("near", host)
		talk("far", host)
		talk("host", near, far)
		for _, from := range []string{"node1", "near", "far", "host"} {
			ping(from, nodes["node1"])
			ping(from, nodes["node2"])
		}
	}
	all()

	// Both are in the node's network, under its name.
	for _, name := range []string{"node2", "host"} {
		r := place[name]
		r.Command = sh("hostname; cat /etc/hostname; echo $HOSTNAME; getent ahostsv4 node2 | head -1")
		got, _ := run(t, c, r, "")
		if lines := strings.Split(got, "\n"); len(lines) != 5 || strings.Join(lines[:3], " ") != "node2 node2 node2" || !strings.HasPrefix(lines[3], host.IPs[0].String()+" ") {
			t.Errorf("%s says of its name %q, want node2 and its address", name, got)
		}
	}
	inode := func(r ExecRequest) string {
		r.Command = []string{"readlink", "/proc/self/ns/net"}
		got, _ := run(t, c, r, "")
		return got
	}
	was := inode(place["node2"])
	if was == "" || inode(place["host"]) != was || inode(place["node1"]) == was {
		t.Errorf("node2 is in %q, its pod in %q, node1 in %q", was, inode(place["host"]), inode(place["node1"]))
	}

	// A listener in the node's network outlives the node's process.
	for name := range nodes {
		if err := c.KillNode(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	waitReady(t, c)
	all()
	if now := inode(place["node2"]); now != was {
		t.Errorf("node2 was in %s, is in %s", was, now)
	}
	if p := getPod(t, c, "host"); p.Restarts != 0 {
		t.Errorf("the pod of hostNetwork was restarted %d times", p.Restarts)
	}

	// The pod's end is not that of the others in the network.
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindPod, Key: host.Key()}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if p := getPod(t, c, "host"); p != nil {
			return "the pod is not gone"
		}
		return ""
	})
	ping("near", nodes["node2"])
	if _, err := c.Exec(t.Context(), ExecRequest{Node: "node9", Command: []string{"true"}}, nil, nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("exec in no node: %v, want ErrNotFound", err)
	}
	if err := c.Delete(t.Context(), []cluster.Ref{{Kind: cluster.KindNode, Key: cluster.Key{Name: "node2"}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if _, err := os.Lstat(newSpace(c.Dir(), "node2").ns); err == nil {
			return "the network of a deleted node is left"
		}
		return ""
	})
}

// waitReady waits until all nodes are ready again.
func waitReady(t *testing.T, c *Client) {
	t.Helper()
	eventually(t, func() string {
		nodes, err := c.Nodes(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, n := range nodes {
			if !n.Ready {
				return fmt.Sprintf("node %s is not ready: %s", n.Name, n.Reason)
			}
		}
		return ""
	})
}
