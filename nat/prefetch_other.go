//go:build !amd64 && !arm64

package nat

func prefetch(uintptr) {}
