//go:build !amd64 && !arm64

package nat

import "vswitch/vswitch/packet"

func prefetch(uintptr) {}

func prefetchSlots(*uint32, uint32, *uint64, uintptr, int) {}

func prefetchLines(uintptr, *[packet.BatchSize]uint32, int) {}
