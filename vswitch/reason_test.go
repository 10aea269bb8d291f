package vswitch

import (
	"os"
	"strings"
	"testing"
)

// TestReasonsAreExplained: docs/operate.md has a row for whatever a packet may die of.
func TestReasonsAreExplained(t *testing.T) {
	text, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, name := range strings.Split(cells[1], ",") {
				explained[strings.Trim(name, " `")] = true
			}
		}
	}
	for _, r := range Reasons() {
		if !explained[r.String()] {
			t.Errorf("%s is not explained", r)
		}
	}
}
