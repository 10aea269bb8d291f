// Package nat remembers what was decided: for one direction of a connection a
// Flow, in the Cache of the worker that forwards it, and for the connection as a
// whole an entry in the shared Table (conntrack) with both its tuples, its state
// and its counters. Whether addresses are translated is part of what was
// decided; a connection without translation is the simple case of one with it.
//
// It also knows what there is to choose from. A Compiler turns a cluster's
// services and endpoint slices into Services, an immutable table of frontends as
// one node sees them: which backends a packet of some origin may be given, and
// whether it must leave with the node's own address. Affinities remember which
// backend a client had; Table.Masquerade finds a free source port.
//
// It owns the two tables, their memory (outside the Go heap, without Go
// pointers; goroutines of short life populate it ahead of its use) and the file
// that lets connections outlive the process. The order in
// which things are decided is the caller's business. It reads no clock: time is a
// parameter, in seconds of a monotonic clock that goes on over a restart, and may
// wrap around.
//
// A Cache belongs to one worker and has no locks. A Table may be used by any
// goroutine. A connection is named by an ID that ends with it: an ID of an
// entry that has been used again since is found out and refused.
package nat
