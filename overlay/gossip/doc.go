// Package gossip spreads facts with one owner between the nodes of a cluster:
// a node's addresses, tunnel endpoint and pod ranges, and the pods it runs. It
// owns membership, the choice between nodes that claim one pod range, and the
// keyring that encrypts the traffic. It is the only package that knows
// hashicorp/memberlist.
//
// It refuses what a peer cannot own: ranges outside the cluster's, pods
// outside their node's ranges, nodes of another cluster, and state that an
// owner did not announce in its present life. It holds no desired objects
// (services, policies): those have another writer.
//
// The agent starts one Gossip per node and reads immutable snapshots. All
// methods may be called from any goroutine.
//
// # Who is right
//
// No clock of any machine orders anything. A process draws a random life
// number when it starts and announces it in its memberlist metadata; memberlist's
// incarnation says which metadata is the latest. What a node says about its pods carries
// (owner, life, version), and is accepted only while the owner is alive with
// that life and the version is higher than the one held. So the state of a
// node that left or failed is gone with it, and an old copy that somebody
// kept is refused.
//
// A claim on a pod range carries a Lamport stamp: one more than the highest
// stamp its claimer had seen. Of two claims that overlap, the lower stamp
// wins, then the lower name; every node computes the same winner from the
// same announcements.
//
// # How it travels
//
// What a route needs is in the memberlist metadata (at most 512 bytes), so that a
// route lives exactly as long as its node. Pods and labels go to every member as
// deltas over streams as soon as they change, while a digest of a few bytes is gossiped.
// Who finds itself behind, by a digest, by the one in a push/pull or by a gap
// between deltas, asks the owner, and asks another member if the owner does
// not answer.
package gossip
