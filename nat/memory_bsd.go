//go:build unix && !linux

package nat

import "golang.org/x/sys/unix"

const mapFlags = unix.MAP_ANON | unix.MAP_PRIVATE

// adviseHuge does nothing: these systems promote pages by themselves.
func adviseHuge([]byte) {}

// giveBack does nothing: MADV_DONTNEED does not promise zeros here.
func giveBack([]byte) bool { return false }

// populate does nothing: pages are mapped as they are written.
func populate([]byte, int, int) {}
