package nat

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"vswitch/vswitch/packet"
)

// needFiles skips where a table cannot be kept in a file at all.
func needFiles(t testing.TB) {
	switch runtime.GOOS {
	case "linux", "darwin", "freebsd":
	default:
		t.Skip("this system cannot keep connections in a file")
	}
}

func numbered(i int) (orig packet.Tuple, m Mapping) {
	orig = key(i)
	m = Mapping{Reply: orig.Reverse(), Service: uint32(i), Backend: uint32(i) * 3, Zone: 7, Why: Ending | ByHash, Via: uint32(i) ^ 0xffff}
	if i%4 == 1 {
		m.Reply.SrcPort, m.Reply.DstPort = 8080, uint16(i)^0x5555
	}
	return orig, m
}

func TestFileKeepsEverything(t *testing.T) {
	needFiles(t)
	cfg := Config{Path: filepath.Join(t.TempDir(), "conntrack"), Max: 5000}
	tab, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4000 {
		orig, m := numbered(i)
		id, err := tab.CreateMapped(&orig, &m, uint32(1000+i))
		if err != nil {
			t.Fatal(err)
		}
		tab.Track(id, Original, packet.TCPSyn, uint32(1000+i))
		tab.Track(id, Reply, packet.TCPSyn|packet.TCPAck, uint32(1001+i))
		tab.Touch(id, Original, uint32(1002+i), uint32(i), uint64(i)<<33)
		if i%3 == 0 {
			tab.Delete(id)
		}
	}
	want := map[packet.Tuple]Info{}
	for info := range tab.All {
		want[info.Orig] = info
	}
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{5000, 20000, 1000} { // also when the limit has changed
		cfg.Max = size
		tab, err = Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if n, warn := tab.Recovered(); n != len(want) || warn != nil || tab.Len() != n {
			t.Fatalf("max %d: recovered %d of %d, %v", size, n, len(want), warn)
		}
		for info := range tab.All {
			if w, ok := want[info.Orig]; !ok || w != info {
				t.Fatalf("max %d: got %+v, want %+v", size, info, w)
			}
			for dir, tuple := range []packet.Tuple{info.Orig, info.Reply} {
				if id, d, ok := tab.Lookup(&tuple); !ok || id != info.ID || int(d) != dir {
					t.Fatalf("max %d: %v is found as %v %v %v", size, tuple, id, d, ok)
				}
			}
		}
		verify(t, tab)
		orig := key(999999)
		if _, err := tab.Create(&orig, 9000); (err == nil) != (size > len(want)) {
			t.Errorf("max %d: create: %v", size, err)
		}
		if id, _, ok := tab.Lookup(&orig); ok {
			tab.Delete(id)
		}
		verify(t, tab)
		tab.Close()
	}
	if b, ok := blocks(cfg.Path); ok && b > 2<<20 {
		t.Errorf("the file takes %d bytes for 4000 connections", b)
	}
}

func TestFileSetAside(t *testing.T) {
	needFiles(t)
	good := func(t *testing.T) Config {
		cfg := Config{Path: filepath.Join(t.TempDir(), "conntrack"), Max: 100, BootID: "boot one"}
		tab, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		orig, m := numbered(1)
		if _, err := tab.CreateMapped(&orig, &m, 5); err != nil {
			t.Fatal(err)
		}
		tab.Close()
		return cfg
	}
	patch := func(off int64, b ...byte) func(*testing.T, *Config) {
		return func(t *testing.T, cfg *Config) {
			f, err := os.OpenFile(cfg.Path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name string
		harm func(*testing.T, *Config)
		want string // part of the warning; empty: none
		n    int    // connections
		bad  bool   // the file is set aside
	}{
		{"untouched", func(*testing.T, *Config) {}, "", 1, false},
		{"other boot", func(_ *testing.T, c *Config) { c.BootID = "boot two" }, "before the last boot", 0, true},
		{"other version", patch(8, 99), "format 99", 0, true},
		{"magic", patch(0, 'X'), "no conntrack file", 0, true},
		{"seed", patch(16, 1, 2, 3, 4, 5, 6, 7, 8), "header is damaged", 0, true},
		{"high", patch(92, 0xff, 0xff, 0xff, 0xff), "cut off", 0, true},
		{"text", func(t *testing.T, c *Config) { os.WriteFile(c.Path, []byte("hello"), 0o600) }, "no conntrack file", 0, true},
		{"cut", func(t *testing.T, c *Config) { os.Truncate(c.Path, headerSize+100) }, "cut off", 0, true},
		{"empty", func(t *testing.T, c *Config) { os.Truncate(c.Path, 0) }, "", 0, false},
		{"entry's address", patch(headerSize+3, 0xaa), "1 damaged entries", 0, false},
		{"entry's reply", patch(headerSize+45, 0xaa), "1 damaged entries", 0, false},
		{"entry's state", patch(headerSize+116, 0xaa), "1 damaged entries", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good(t)
			tt.harm(t, &cfg)
			tab := open(t, cfg)
			n, warn := tab.Recovered()
			if n != tt.n || tab.Len() != tt.n {
				t.Errorf("%d connections, want %d", n, tt.n)
			}
			if tt.want == "" && warn != nil || tt.want != "" && (warn == nil || !strings.Contains(warn.Error(), tt.want)) {
				t.Errorf("warning %v, want %q", warn, tt.want)
			}
			if _, err := os.Stat(cfg.Path + ".bad"); (err == nil) != tt.bad {
				t.Errorf("set aside: %v, want %v", err == nil, tt.bad)
			}
			orig, m := numbered(2)
			if _, err := tab.CreateMapped(&orig, &m, 6); err != nil {
				t.Error(err)
			}
			verify(t, tab)
		})
	}
}

func TestFileInUse(t *testing.T) {
	needFiles(t)
	cfg := Config{Path: filepath.Join(t.TempDir(), "conntrack"), Max: 100}
	tab := open(t, cfg)
	if _, err := Open(cfg); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), cfg.Path) {
		t.Errorf("got %v, want one with the path and %v", err, ErrInUse)
	}
	tab.Close()
	if tab, err := Open(cfg); err != nil {
		t.Error(err)
	} else {
		tab.Close()
	}
	if _, err := Open(Config{Path: filepath.Join(t.TempDir(), "missing", "conntrack")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
	if _, err := Open(Config{Path: t.TempDir()}); err == nil {
		t.Error("a directory was opened as a file")
	}
	if _, err := Open(Config{Max: -1}); err == nil {
		t.Error("a negative size was accepted")
	}
	bad := DefaultTimeouts()
	bad.UDP = 0
	if _, err := Open(Config{Timeouts: bad}); err == nil || !strings.Contains(err.Error(), "udp") {
		t.Errorf("got %v, want one that names UDP", err)
	}
}

// A disk without room: refused like a full table, and no fault.
func TestFileNoSpace(t *testing.T) {
	needFiles(t)
	tab := open(t, Config{Path: filepath.Join(t.TempDir(), "conntrack"), Max: 100_000})
	extend := tab.mem.extend
	tab.mem.extend = func(from, to int) error {
		if to > 2*fileStep {
			return errors.New("no space")
		}
		return extend(from, to)
	}
	n := 2 * fileStep / entrySize
	for i := range n {
		orig, m := numbered(i)
		id, err := tab.CreateMapped(&orig, &m, 1)
		if err != nil {
			t.Fatalf("connection %d of %d: %v", i, n, err)
		}
		tab.Track(id, Original, packet.TCPSyn|packet.TCPAck, 1)
		tab.Track(id, Reply, packet.TCPAck, 1)
	}
	orig, m := numbered(n)
	if _, err := tab.CreateMapped(&orig, &m, 1); err != nil && !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	verify(t, tab)
}

// Whatever a file contains, Open gives a table that works.
func FuzzOpen(f *testing.F) {
	needFiles(f)
	path := filepath.Join(f.TempDir(), "conntrack")
	cfg := Config{Path: path, Max: 64, BootID: "fuzz"}
	tab, err := Open(cfg)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 40 {
		orig, m := numbered(i)
		id, err := tab.CreateMapped(&orig, &m, uint32(i))
		if err != nil {
			f.Fatal(err)
		}
		tab.Track(id, Original, packet.TCPSyn, uint32(i))
		if i%5 == 0 {
			tab.Delete(id)
		}
	}
	tab.Close()
	valid, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), []byte{}, uint16(0))
	f.Add(uint16(8), []byte{2}, uint16(0))
	f.Add(uint16(92), []byte{0xff, 0xff, 0xff, 0x7f}, uint16(0))
	f.Add(uint16(headerSize), []byte{1, 2, 3, 4, 5, 6, 7, 8}, uint16(0))
	f.Add(uint16(headerSize+112), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(0))
	f.Add(uint16(headerSize+entrySize+112), []byte{3}, uint16(headerSize+2*entrySize))
	f.Add(uint16(headerSize), valid[headerSize+entrySize:headerSize+2*entrySize], uint16(0)) // twice the same
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, off uint16, patch []byte, size uint16) {
		start := time.Now()
		defer func() {
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		}()
		b := bytes.Clone(valid)
		if int(off) < len(b) {
			copy(b[off:], patch)
		}
		if size != 0 && int(size) < len(b) {
			b = b[:size]
		}
		cfg := cfg
		cfg.Path = filepath.Join(dir, "conntrack")
		if err := os.WriteFile(cfg.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		tab, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer tab.Close()
		verify(t, tab)
		for info := range tab.All {
			if orig, m := numbered(int(info.Service)); info.Orig != orig && info.Reply != m.Reply {
				t.Fatalf("a damaged connection was taken in: %+v", info)
			}
			tab.Touch(info.ID, Reply, 50, 1, 1)
			tab.Track(info.ID, Original, packet.TCPFin, 50)
		}
		for i := range 100 {
			orig, m := numbered(1000 + i)
			tab.CreateMapped(&orig, &m, 60)
		}
		verify(t, tab)
		expireAll(tab, 100_000)
		expireAll(tab, 200_000)
		verify(t, tab)
		if tab.Len() != 0 {
			t.Fatalf("%d connections never end", tab.Len())
		}
	})
}
