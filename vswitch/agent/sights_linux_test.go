package agent

import (
	"fmt"
	"os"
	"testing"

	"vswitch/vswitch"
)

// TestWatchGivesBack: what a watch maps goes with it.
func TestWatchGivesBack(t *testing.T) {
	sw, err := vswitch.New(vswitch.Config{Workers: 1, MaxFlows: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	pages := func() (n int) {
		t.Helper()
		data, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(data), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	Watch(sw, "node1", "", func(Sight) {})()
	before := pages()
	for range 100 {
		Watch(sw, "node1", "", func(Sight) {})()
	}
	if grown := (pages() - before) * os.Getpagesize() >> 20; grown > 200 {
		t.Errorf("100 watches keep %d MiB", grown)
	}
}
