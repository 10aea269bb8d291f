// Package dns answers the cluster's names: the zone of services and their
// endpoints, after the Kubernetes DNS specification 1.1.0, and the server in
// front of it.
//
// # The life of a question
//
//	          Server                       Zone (a snapshot)
//	client ──► accept ─► unpack ─► check ──► Answer ── ours ──────────► pack ──► client
//	 UDP, TCP    │                   │          │                        ▲
//	             ▼                   ▼          └ not ours, or a CNAME   │
//	      silence, FORMERR,     BADVERS,          that leads outside     │
//	         NOTIMP             REFUSED                 ▼                │
//	                                                Forwarder ───────────┘
//	                                       cache ─► flight ─► upstreams
//
// A datagram, or a message on a TCP connection, is looked at before it is
// unpacked (server.go): an answer gets none, another opcode than QUERY gets
// NOTIMP, and more or fewer than one question FORMERR. What is left is checked
// (reply.go): its EDNS version, its class, and that it asks for no transfer.
//
// Then the present [Zone] is asked (answer.go). A Zone is everything that the
// server knows of the cluster at one moment. It never changes and is read without
// a lock; [Zone.Follow] makes the next one from what has changed in a
// cluster.State, at the cost of that change, and [Server.SetZone] puts it in
// place. Before the first one the answer is SERVFAIL, never that a name does not
// exist. A Zone does no I/O: a question goes in, records come out.
//
// What is in none of the zones goes to the [Forwarder], if there is one, else it
// is REFUSED. So does the target of an ExternalName service. The Forwarder looks
// into its cache (cache.go), joins a flight of the same question if one is under
// way (forward.go), and else asks the upstreams, one after the other
// (upstream.go). On a TCP connection, such a question does not hold up those behind it
// (connection.go); a share of all that may wait is what one client has (shares.go).
//
// Last, the answer is cut to what the client takes: 512 bytes over UDP, up to
// 1232 if it says so (EDNS), with the TC bit where something is missing, so that
// it asks again over TCP.
//
// # Who may do what
//
// The caller brings the sockets: [Server.ServePacket] and [Server.ServeListener]
// take any net.PacketConn and net.Listener, those of the host or of a netstack,
// and end with their context. One goroutine at a time makes Zones; everything
// else may be called by anybody.
package dns
