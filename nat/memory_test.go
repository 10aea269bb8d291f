package nat

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"vswitch/vswitch/packet"
)

type memoryReport struct{ Start, Table, Cache, Churn uint64 }

// A million connections and the flows of both their directions, in a process
// that does nothing else.
func TestMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	for _, tt := range []struct {
		name  string
		limit uint64 // in MiB
	}{
		{"ipv4", 400},
		{"both", 480}, // in turns, so that all memory that only IPv6 needs is used
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childVar+"=memory:"+tt.name)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var m memoryReport
			if err := json.Unmarshal(out, &m); err != nil {
				t.Fatal(err)
			}
			t.Logf("MiB: process %d, with the table %d, with both directions in the cache %d, after churn %d",
				m.Start>>20, m.Table>>20, m.Cache>>20, m.Churn>>20)
			if most := max(m.Cache, m.Churn) >> 20; !raceEnabled && most > tt.limit {
				t.Errorf("%d MiB, want at most %d", most, tt.limit)
			}
		})
	}
}

func childMemory(families string) {
	key := key
	if families == "ipv4" {
		both := key
		key = func(i int) packet.Tuple { return both(2 * i) }
	}
	n := 1_000_000
	if raceEnabled {
		n = 100_000 // only that it works: what is measured is the race detector
	}
	m := memoryReport{Start: residentBytes()}
	tab, err := Open(Config{Max: n})
	if err != nil {
		panic(err)
	}
	create := func(i int) ID {
		k := key(i)
		id, err := tab.Create(&k, uint32(i/100_000))
		if err != nil {
			panic(err)
		}
		return id
	}
	for i := range n {
		create(i)
	}
	m.Table = residentBytes()
	c := NewCache(2 * n)
	insert := func(i int) {
		k := key(i)
		c.Set(c.Insert(&k, k.Hash(1)), &Decision{Conn: 1}, 1)
		k = k.Reverse()
		c.Set(c.Insert(&k, k.Hash(1)), &Decision{Conn: 1}, 1)
	}
	for i := range n {
		insert(i)
	}
	m.Cache = residentBytes()
	// The same number, but others.
	for i := range n / 2 {
		k := key(i)
		id, _, _ := tab.Lookup(&k)
		tab.Delete(id)
		create(n + i)
		insert(n + i)
	}
	if tab.Len() != n || c.Len() != 2*n {
		panic(fmt.Sprint(tab.Len(), c.Len()))
	}
	m.Churn = residentBytes()
	_ = json.NewEncoder(os.Stdout).Encode(m)
}

// residentBytes returns the process's resident memory.
func residentBytes() uint64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	var kb uint64
	fmt.Sscan(after, &kb)
	return kb << 10
}
