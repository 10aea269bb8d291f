//go:build amd64 || arm64

package nat

// prefetch begins to load the cache line at an address, without waiting for it.
// It is a hint: an address where nothing is does no harm.
//
//go:noescape
func prefetch(addr uintptr)
