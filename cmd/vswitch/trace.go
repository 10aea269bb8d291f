package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
	"vswitch/vswitch/packet"
)

func newTrace() *cobra.Command {
	var proto, output string
	var size int
	c := &cobra.Command{
		Use:   "trace FROM TO",
		Short: "Explain what becomes of a packet, hop by hop",
		Long: `Asks the running nodes what they would do with a packet, with the code that forwards,
and without sending one.

  FROM  NAMESPACE/POD
  TO    NAMESPACE/POD:PORT, IP:PORT, [IP6]:PORT, or without port for --proto icmp

Exit codes: 0 delivered, 1 not delivered, 2 bad input.`,
		Example: `  vswitch trace shop/front shop/cart:8080
  vswitch trace shop/front 10.244.2.2 --proto icmp`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := open(c)
			if err != nil {
				return err
			}
			r, err := trace(c.Context(), client, args[0], args[1], proto, size)
			if err != nil {
				return err
			}
			if output == "json" {
				err = printObject(c.OutOrStdout(), r, "json")
			} else {
				r.print(c.OutOrStdout())
			}
			if err == nil && r.Verdict != "delivered" {
				return &exitError{code: exitFailed}
			}
			return err
		},
	}
	c.Flags().StringVar(&proto, "proto", "tcp", "tcp, udp, sctp or icmp")
	c.Flags().IntVar(&size, "size", 0, "size of the IP packet in bytes (default the smallest)")
	c.Flags().StringVarP(&output, "output", "o", "text", "output format: text or json")
	return c
}

// traceResult is what a trace found. Its JSON form is fixed.
type traceResult struct {
	ID          string     `json:"id"`
	Verdict     string     `json:"verdict"` // "delivered", "dropped" or "rejected"
	Reason      string     `json:"reason"`
	Policy      string     `json:"policy"`
	Backends    []string   `json:"backends"`
	Destination string     `json:"destination"`
	Source      string     `json:"source"`
	SNAT        bool       `json:"snat"`
	Hops        []traceHop `json:"hops"`
}

type traceHop struct {
	Node  string `json:"node"`
	Stage string `json:"stage"`
	Did   string `json:"did"`
}

// rejected are the reasons for which the sender gets an answer.
var rejected = map[string]bool{"no-route": true, "no-listener": true, "ttl-expired": true, "too-big": true}

var protocols = map[string]uint8{"tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "sctp": packet.ProtoSCTP, "icmp": packet.ProtoICMP}

// trace follows a packet from node to node.
func trace(ctx context.Context, client *lab.Client, from, to, proto string, size int) (*traceResult, error) {
	number, ok := protocols[proto]
	if !ok {
		return nil, bad(fmt.Errorf("protocol %q: use tcp, udp, sctp or icmp", proto))
	}
	pods, err := client.Pods(ctx)
	if err != nil {
		return nil, err
	}
	src, err := findPod(pods, from)
	if err != nil {
		return nil, err
	}
	dst, err := target(pods, src, to, proto)
	if err != nil {
		return nil, err
	}
	if proto == "icmp" && dst.Addr().Is6() {
		number = packet.ProtoICMPv6
	}
	r := &traceResult{Backends: []string{}, Hops: []traceHop{}, Destination: endpoint(dst)}
	req := agent.TraceRequest{From: from, Destination: dst, Proto: number, Size: size}
	node := src.Node
	for range 3 { // sender's node, receiver's node, and one to show a loop
		a, err := client.Agent(ctx, node)
		if err != nil {
			return nil, input(err)
		}
		res, err := a.Trace(ctx, req)
		a.Close()
		if err != nil {
			return nil, bad(fmt.Errorf("node %s: %w", node, err))
		}
		r.Source = res.Source.Addr().String()
		for _, s := range res.Steps {
			r.Hops = append(r.Hops, traceHop{res.Node, s.Stage, s.Did})
		}
		if res.Reason != "" {
			r.Verdict, r.Reason = "dropped", res.Reason
			if rejected[res.Reason] {
				r.Verdict = "rejected"
			}
			return r, nil
		}
		if res.NextNode == "" {
			r.Verdict = "delivered"
			return r, nil
		}
		req.From, req.Peer, req.Source = "", node, res.Source
		node = res.NextNode
	}
	r.Verdict, r.Reason = "dropped", "loop"
	return r, nil
}

func findPod(pods []*cluster.Pod, name string) (*cluster.Pod, error) {
	namespace, pod, err := podName(name)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.Namespace == namespace && p.Name == pod {
			return p, nil
		}
	}
	return nil, bad(fmt.Errorf("there is no pod %s/%s", namespace, pod))
}

// target reads TO: a pod or an address, with a port unless the protocol has none.
func target(pods []*cluster.Pod, src *cluster.Pod, to, proto string) (netip.AddrPort, error) {
	host, port := to, uint64(0)
	if proto != "icmp" {
		h, p, err := net.SplitHostPort(to)
		if err == nil {
			port, err = strconv.ParseUint(p, 10, 16)
		}
		if err != nil || port == 0 {
			return netip.AddrPort{}, bad(fmt.Errorf("%q is not NAMESPACE/POD:PORT, IP:PORT or [IP6]:PORT", to))
		}
		host = h
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return netip.AddrPortFrom(a, uint16(port)), nil
	}
	p, err := findPod(pods, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, mine := range src.IPs {
		for _, theirs := range p.IPs {
			if mine.Is4() == theirs.Is4() {
				return netip.AddrPortFrom(theirs, uint16(port)), nil
			}
		}
	}
	return netip.AddrPort{}, bad(fmt.Errorf("%s and %s have no address family in common", src.Key(), host))
}

func (r *traceResult) print(out io.Writer) {
	t := table{header: []string{"NODE", "STAGE", "WHAT"}}
	for _, h := range r.Hops {
		t.add(h.Node, h.Stage, h.Did)
	}
	t.print(out, true)
	fmt.Fprintf(out, "\n%s: %s -> %s", r.Verdict, r.Source, r.Destination)
	if r.Reason != "" {
		fmt.Fprintf(out, " (%s)", r.Reason)
	}
	fmt.Fprintln(out)
}
