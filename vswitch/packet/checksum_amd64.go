package packet

// sum returns the le sum of b.
func sum(b []byte) uint64 { return sumGeneric(b) }
