package main

import "testing"

func TestDroppedCell(t *testing.T) {
	for _, tt := range []struct {
		packets, shared uint64
		want            string
	}{{0, 0, "0"}, {120, 0, "120"}, {120, 80, "120 (80 shared)"}} {
		if got := droppedCell(tt.packets, tt.shared); got != tt.want {
			t.Errorf("%d, %d: %q, want %q", tt.packets, tt.shared, got, tt.want)
		}
	}
}
