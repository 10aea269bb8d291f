package nat

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"
)

// ErrInUse: another process has the table's file.
var ErrInUse = errors.New("in use by another process")

// Config is how a Table is opened.
type Config struct {
	// Path is the table's file, in a directory that only the node's user can
	// write and that need not outlive the boot: best on a tmpfs, as other file
	// systems write it to a disk now and then. Empty: the table is in memory
	// only and ends with the process.
	Path string
	// Max is the largest number of connections; 0 is 1<<20, the limit is
	// MaxConns. Memory is used as the table fills: 176 bytes a connection and 16
	// to 32 for the index.
	Max int
	// Timeouts; the zero value means DefaultTimeouts.
	Timeouts Timeouts
	// BootID names the boot of the machine. The times in a file of another boot
	// mean nothing, and its connections are gone. Empty: as the system says.
	BootID string
}

// backing is where the entries are, if in a file.
type backing struct {
	file   *os.File
	header *header
	mapped []byte
	warn   error
	found  int
}

const (
	magic      = "vswconn\x00"
	format     = 1
	headerSize = 4096 // a page, so that entries begin on one
)

// header begins the file. It is in host byte order: the file never leaves the
// machine, nor the boot.
type header struct {
	magic             [8]byte
	format, entrySize uint32
	seed              uint64 // of the hashes
	boot              [64]byte
	sum               uint32        // of what is above
	high              atomic.Uint32 // entries before this one may have been used
}

// Open returns the table of a file, with the connections that the last process
// left in it, or an empty one. A file that cannot be used (damaged, of another
// version or boot) is renamed to Path.bad, and single entries that are damaged
// are left out; both is no error, but what Recovered tells.
func Open(cfg Config) (*Table, error) {
	if cfg.Max == 0 {
		cfg.Max = 1 << 20
	}
	if cfg.Max < 0 || cfg.Max > MaxConns {
		return nil, fmt.Errorf("conntrack: %d connections are outside 1..%d", cfg.Max, MaxConns)
	}
	if cfg.Timeouts == (Timeouts{}) {
		cfg.Timeouts = DefaultTimeouts()
	}
	if err := cfg.Timeouts.Validate(); err != nil {
		return nil, err
	}
	t := &Table{max: cfg.Max, timeouts: cfg.Timeouts.seconds()}
	if cfg.Path != "" {
		if cfg.BootID == "" {
			cfg.BootID = bootID()
		}
		b, err := openBacking(cfg)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			t.backing.warn = errors.New("connections end with the process: this system cannot keep them in a file")
		case err != nil:
			return nil, fmt.Errorf("conntrack file %s: %w", cfg.Path, err)
		default:
			t.backing = b
		}
	}
	size, used := cfg.Max, uint32(0)
	if h := t.backing.header; h != nil {
		used = h.high.Load()
		size = max(size, int(used))
		t.seed = h.seed
		t.mem = &region{mem: t.backing.mapped[headerSize:], done: int(used) * entrySize, extend: t.backing.extend}
	} else {
		t.seed = newSeed()
		t.mem = reserve(size * entrySize)
	}
	t.entries = entries(t.mem.mem, size)
	t.makeIndex(size)
	t.restore(used)
	return t, nil
}

// makeIndex makes what is never in the file.
func (t *Table) makeIndex(size int) {
	t.tagMem, t.linkMem = reserve(size*8), reserve(size*8)
	t.tags, t.links = words(t.tagMem.mem, 2*size), linksOf(t.linkMem.mem, size)
	shardBits := min(6, max(0, bits.Len(uint(size/1024))-1))
	t.shift = uint8(32 - shardBits)
	t.shards = make([]shard, 1<<shardBits)
	g := &ground{indexes: len(t.shards)}
	for i := range t.shards {
		t.shards[i].x = makeIndex(g, i, 1024, uint32(2*size), t.tags)
	}
}

// restore takes in what the first used entries of a file hold.
func (t *Table) restore(used uint32) {
	t.high.Store(used)
	_ = t.extend(used)
	now, first := uint32(0), true // as far as the file tells
	for i := range used {
		if e := &t.entries[i]; e.commit.Load()&1 != 0 && (first || int32(e.last()-now) > 0) {
			now, first = e.last(), false
		}
	}
	damaged := 0
	for i := used; i > 0; i-- {
		if t.adopt(i-1, now) {
			t.backing.found++
			t.count.Add(1)
			continue
		}
		e := &t.entries[i-1]
		if c := e.commit.Load(); c&1 != 0 {
			damaged++
			e.commit.Store(c &^ 1)
		}
		t.links[i-1].next, t.free.head = t.free.head, i
	}
	if damaged > 0 {
		t.backing.warn = errors.Join(t.backing.warn, fmt.Errorf("conntrack file: %d damaged entries were left out", damaged))
	}
}

// adopt indexes an entry of a file if it is a connection.
func (t *Table) adopt(i, now uint32) bool {
	e := &t.entries[i]
	c := e.commit.Load()
	if c&1 == 0 || c>>1 == 0 {
		return false
	}
	h := [2]uint64{e.orig.Hash(t.seed), e.reply.Hash(t.seed)}
	w := word(e.state.Load())
	if e.check != e.sum(h, c>>1) || e.orig.Proto != e.reply.Proto || !w.valid(e.orig.Proto) {
		return false
	}
	s := t.shard(uint32(h[0]))
	if _, _, taken := t.find(s, &e.orig, h[0]); taken {
		return false
	}
	if _, _, taken := t.find(t.shard(uint32(h[1])), &e.reply, h[1]); taken {
		return false
	}
	t.index(i, h)
	t.arm(s, i, e.last()+t.timeout(e.orig.Proto, w), now)
	t.enqueue(s, i, w)
	return true
}

// Recovered returns how many connections Open found in the file, and what it
// had to leave behind, or nil.
func (t *Table) Recovered() (int, error) { return t.backing.found, t.backing.warn }

// Close gives the memory back and leaves the file for the next process. Nobody
// may use the table any more. A second Close does nothing.
func (t *Table) Close() error {
	if t.shards == nil {
		return nil
	}
	for i := range t.shards {
		t.shards[i].x.close()
	}
	t.tagMem.close()
	t.linkMem.close()
	t.mem.close()
	t.entries, t.tags, t.links, t.shards = nil, nil, nil, nil
	t.high.Store(0)
	return t.backing.close()
}

// usable returns why a header and a file of that size cannot be used, or nil.
func (h *header) usable(size int64, boot string) error {
	var b [64]byte
	copy(b[:], boot)
	switch {
	case string(h.magic[:]) != magic:
		return errors.New("it is no conntrack file")
	case h.format != format || h.entrySize != entrySize:
		return fmt.Errorf("it has format %d, not %d", h.format, format)
	case h.sum != h.checksum():
		return errors.New("its header is damaged")
	case h.boot != b:
		return errors.New("it is from before the last boot")
	case size < headerSize+int64(h.high.Load())*entrySize || h.high.Load() > MaxConns:
		return errors.New("it is cut off")
	}
	return nil
}

// checksum sums what is above sum.
func (h *header) checksum() uint32 {
	b := unsafe.Slice((*byte)(unsafe.Pointer(h)), unsafe.Offsetof(h.sum))
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

func (h *header) fill(boot string) {
	copy(h.magic[:], magic)
	h.format, h.entrySize = format, entrySize
	h.seed = newSeed()
	copy(h.boot[:], boot)
	h.sum = h.checksum()
}

func newSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.NativeEndian.Uint64(b[:])
}
