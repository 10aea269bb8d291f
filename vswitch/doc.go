// Package vswitch is the switch: ports in, ports out, and the order in between.
// It is the page to read first.
//
// # The life of a packet
//
//	 pod            port                        worker                          port           pod
//	┌──────┐  TAP  ┌──────┐ Read  ┌────────────────────────────────┐ Write ┌──────┐  TAP  ┌──────┐
//	│ eth0 ├──────►│ tap  ├──────►│ parse ─► look up ─► rewrite    ├──────►│ tap  ├──────►│ eth0 │
//	└──────┘       └──────┘ batch │            │ miss      ▲       │       └──────┘       └──────┘
//	                              │            ▼           │       │       ┌──────┐  UDP
//	                              │         decide ─► remember     ├──────►│ link ├──────► another node
//	                              └────────────────────────────────┘       └──────┘ VXLAN
//
// A pod sends. Its port (package port) reads what waits into a [packet.Batch]:
// frames and their offload metadata, superpackets whole. The worker that owns
// the port loads the world, one immutable [Tables], once for the batch and
// takes it through these stages (worker.go, forward.go):
//
//  1. parse: headers to a tuple, and the tuple to a hash (packet.Parse)
//  2. look up: the tuple in this worker's flow cache (nat.Cache)
//  3. a known flow: worker.known checks the frame against the flow, rewrites
//     addresses, TTL and MACs by what was decided once, and names the port out
//  4. anything else: worker.unknown, which sorts out ARP and ND (answered from
//     the tables, never flooded), multicast, fragments and ICMP errors, and
//     takes the first packet of a flow to decide
//  5. flush: what is for one port is written with one call
//
// decide (decide.go) is the only place that knows the order of things:
//
//  1. source: a pod speaks only as itself, the node too, a peer only for its
//     ranges, a client outside as nobody of the cluster
//  2. service: a service address becomes one of its backends (service.go)
//  3. egress: may the sender say this? (policy.go)
//  4. route: a local pod, a peer node, the switch itself, or nowhere (package fib)
//  5. ingress: may the receiver hear this?
//  6. masquerade: does the answer have to come back through this node?
//  7. remember: the connection for both directions (nat.Table)
//
// A packet of a connection that is known (nat.Table) goes where that one goes:
// answers are translated back, and of a service's connection it is only asked
// whether its backend is still there, and of any, in a world that is new to it,
// whether policy still allows how it began.
//
// The answer is a nat.Decision, which the worker's nat.Cache keeps as a nat.Flow:
// what to rewrite, where to send, and the generation of the Tables that said so. When the world has changed since, the flow's next
// packet is decided again. That is the whole of invalidation.
//
// What the switch says itself, ARP and ND answers, ICMP errors, TCP resets,
// echo replies of its gateway, is in reply.go; an echo request in fragments is
// put together first (reassemble.go). Why a packet died is a [Reason],
// counted by port; nothing is logged for a packet. [Switch.Trace] runs decide
// with a recorder: it explains with the code that forwards. Package trace asks
// one node after the other that way.
//
// # Across nodes
//
// The overlay is a port like any other (package overlay): its Write cuts
// superpackets, adds VXLAN headers and leaves the rest to the kernel's
// UDP_SEGMENT; its Read checks the outer source against the known peers and
// merges what belongs together. A packet from a peer enters the worker with
// packet.In naming that peer, and decide holds it to the peer's ranges.
//
// # From outside
//
// A client outside comes in at any node, by its outside port, and asks for a node
// port, a load balancer's or an external address. If its backend is on another
// node, the packet goes there as it is, so that the backend sees who asks: that
// node translates, and its answers go back through the node where the client
// came in, which alone may pass on to clients what another node says in a
// service's name. Both remember each other in the connection (service.go).
// Tables can say that such packets are masqueraded instead, as kube-proxy does.
//
// # Who may do what
//
// Ports are attached, detached and tables published by one control goroutine
// (package agent); workers only read both, through atomic pointers. A batch, a
// flow cache and the fragments belong to one worker and are never shared. The
// connection table is shared and sharded, and is touched for the first packets
// of a flow, for SYN, FIN and RST, and once a second for a flow that lives.
package vswitch
