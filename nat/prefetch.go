//go:build amd64 || arm64

package nat

import "vswitch/vswitch/packet"

// These begin to load cache lines, without waiting for them. They are hints: an
// address where nothing is does no harm. Unlike loads, they are done before the
// memory has answered, and so do not keep a processor from looking further ahead.

// prefetch begins to load the cache line at an address.
//
//go:noescape
func prefetch(addr uintptr)

// prefetchSlots begins to load the slots where n hashes begin to be looked for:
// the first one is at hash, and each next one stride bytes further.
//
//go:noescape
func prefetchSlots(slots *uint32, mask uint32, hash *uint64, stride uintptr, n int)

// prefetchLines begins to load the first n of some entries plus one, of 64 bytes
// each; 0 is none. The first entry is at base.
//
//go:noescape
func prefetchLines(base uintptr, entries *[packet.BatchSize]uint32, n int)
