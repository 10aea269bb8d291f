package fabric

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// fakeTB is a test that fails when it is told to.
type fakeTB struct {
	dir      string
	failed   bool
	log      string
	cleanups []func()
}

func (t *fakeTB) Cleanup(f func())        { t.cleanups = append(t.cleanups, f) }
func (t *fakeTB) Failed() bool            { return t.failed }
func (t *fakeTB) ArtifactDir() string     { return t.dir }
func (t *fakeTB) Logf(f string, a ...any) { t.log += fmt.Sprintf(f, a...) + "\n" }

// end ends the test and returns the file that it says it has written.
func (t *fakeTB) end() string {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
	_, path, _ := strings.Cut(strings.TrimSpace(t.log), " are in ")
	return path
}

var _ TB = testing.TB(nil)

// artifacts sets go test's flag -artifacts, and where temporary files are.
func artifacts(t *testing.T, on bool) (temp string) {
	t.Helper()
	temp = t.TempDir()
	t.Setenv("TMPDIR", temp)
	f := flag.Lookup("test.artifacts")
	was := f.Value.String()
	if err := f.Value.Set(fmt.Sprint(on)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(was) }) // it was right before
	return temp
}

// recorded is a fabric on a clock of its own, with a pod on each of two nodes,
// and a recording of the fake test.
func recorded(t *testing.T, tb TB) (f *Fabric, clock *time.Duration) {
	t.Helper()
	clock = new(time.Duration)
	*clock = time.Hour
	f, err := New(Config{Nodes: 1, Inline: true, Clock: func() time.Duration { return *clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.RecordOnFailure(tb)
	if _, err := f.AddNode(); err != nil { // one that is added later
		t.Fatal(err)
	}
	for i, n := range f.Nodes {
		p := n.Plan(fmt.Sprintf("test/p%d", i+1))
		near, far := port.Pipe(65521)
		if err := p.Attach(near); err != nil {
			t.Fatal(err)
		}
		p.End = far
		f.Pods = append(f.Pods, p)
	}
	return f, clock
}

// hello sends a datagram from one pod to the other, too long for Ethernet to
// pad it behind the payload.
func hello(t *testing.T, f *Fabric, from, to int, payload []byte) {
	t.Helper()
	b := packet.NewBatch()
	payload = append([]byte("a datagram for you: "), payload...)
	b.Append(datagram(t, f, f.Pods[from], f.Pods[from].IPs[0].Addr(), f.Pods[to].IPs[0].Addr(), payload))
	if n, err := f.Pods[from].End.Write(b, []uint16{0}); n != 1 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	f.Settle()
}

// line is a packet of a file, as a reader sees it.
type line struct {
	intf, comment string
	at            time.Time
	length        int
	frame         []byte
}

func readFile(t *testing.T, path string) (lines []line) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := pcapgo.NewNgReader(file, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return lines
		} else if err != nil {
			t.Fatal(err)
		}
		intf, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line{intf.Name, intf.Comment, ci.Timestamp, ci.Length, data})
	}
}

// TestRecordOnFailure reads back the way of two packets, there and back.
func TestRecordOnFailure(t *testing.T) {
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprintf("artifacts=%v", with), func(t *testing.T) {
			temp := artifacts(t, with)
			tb := &fakeTB{dir: t.TempDir(), failed: true}
			f, clock := recorded(t, tb)
			long := bytes.Repeat([]byte("long "), 600)
			start := time.Now()
			hello(t, f, 0, 1, []byte("there"))
			*clock += 3 * time.Second
			hello(t, f, 1, 0, []byte("and back"))
			hello(t, f, 0, 1, long) // more than the MTU
			path := tb.end()
			dir := temp
			if with {
				dir = tb.dir
			}
			if rel, err := filepath.Rel(dir, path); err != nil || !filepath.IsLocal(rel) {
				t.Fatalf("the file is %q, want it in %s; log: %s", path, dir, tb.log)
			}
			lines := readFile(t, path)
			payload := []string{"there", "there", "there", "there", "and back", "and back", "and back", "and back"}
			intfs := []string{
				"node1/test/p1", "node1/overlay", "node2/overlay", "node2/test/p2",
				"node2/test/p2", "node2/overlay", "node1/overlay", "node1/test/p1",
			}
			if len(lines) < len(intfs) {
				t.Fatalf("%d packets, want at least %d", len(lines), len(intfs))
			}
			for i, want := range intfs {
				l := lines[i]
				if l.intf != want || !bytes.HasSuffix(l.frame, []byte(payload[i])) || l.length != len(l.frame) {
					t.Errorf("packet %d is at %s, %d bytes %q; want %q at %s", i, l.intf, l.length, l.frame, payload[i], want)
				}
				node, name, _ := strings.Cut(want, "/")
				if l.comment != "node "+node+", port "+name {
					t.Errorf("the comment of %s is %q", want, l.comment)
				}
				if after := l.at.Sub(start) - time.Duration(i/4)*3*time.Second; after.Abs() > time.Minute {
					t.Errorf("packet %d was seen at %s, %s off", i, l.at, after)
				}
			}
			if took := lines[4].at.Sub(lines[3].at); took != 3*time.Second {
				t.Errorf("%s between there and back, want 3s", took)
			}
			if l := lines[8]; len(l.frame) != recordBytes || l.length != packet.EthernetLen+28+20+len(long) {
				t.Errorf("of %d bytes, %d are kept", l.length, len(l.frame))
			}
			checkDirections(t, path, []uint32{1, 2, 1, 2, 1, 2, 1, 2})
		})
	}
}

// checkDirections reads the flags of the first packets, which the library's
// reader skips: the option stands in the last 16 bytes of a block.
func checkDirections(t *testing.T, path string, want []uint32) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) uint32 {
		return uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16 | uint32(b[at+3])<<24
	}
	var got []uint32
	for at := 0; at < len(b); at += int(u32(at + 4)) {
		if end := at + int(u32(at+4)); u32(at) == 6 {
			if u32(end-16) != 2|4<<16 || u32(end-8) != 0 || u32(end-4) != u32(at+4) {
				t.Fatalf("a packet ends with %x", b[end-16:end])
			}
			got = append(got, u32(end-12))
		}
	}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("directions are %v, want %v at first", got, want)
	}
}

// TestRecordIsBounded: the last packets of a port are kept, in order.
func TestRecordIsBounded(t *testing.T) {
	artifacts(t, false)
	tb := &fakeTB{failed: true}
	f, _ := recorded(t, tb)
	const n = 2*recordPackets + 7
	hello(t, f, 1, 0, []byte("seldom")) // what another port saw is not driven out at p2
	for i := range n {
		hello(t, f, 0, 0, fmt.Appendf(nil, "number %04d", i))
	}
	var numbers []string
	seldom := 0
	for _, l := range readFile(t, tb.end()) {
		if bytes.HasSuffix(l.frame, []byte("seldom")) {
			seldom++
		} else if l.intf == "node1/test/p1" {
			numbers = append(numbers, string(l.frame[len(l.frame)-4:]))
		}
	}
	var want []string // every packet is seen on its way in and on its way out
	for i := n - recordPackets/2; i < n; i++ {
		want = append(want, fmt.Sprintf("%04d", i), fmt.Sprintf("%04d", i))
	}
	if !slices.Equal(numbers, want) {
		t.Errorf("%d packets of p1 are kept, from %v to %v; want %d", len(numbers), numbers[:1], numbers[len(numbers)-1:], len(want))
	}
	if seldom != 3 { // p2, and the wire at both ends
		t.Errorf("the packet of the quiet ports is there %d times, want 3", seldom)
	}
}

// TestRecordNothing: a test that passes leaves nothing behind, and one in which
// nothing moved says so.
func TestRecordNothing(t *testing.T) {
	temp := artifacts(t, false)
	passes := &fakeTB{}
	f, _ := recorded(t, passes)
	hello(t, f, 0, 1, []byte("there"))
	if passes.end(); passes.log != "" {
		t.Errorf("a test that passed logs %q", passes.log)
	}
	fails := &fakeTB{failed: true}
	recorded(t, fails)
	if path := fails.end(); path != "" || !strings.Contains(fails.log, "no packet") {
		t.Errorf("a test without packets logs %q", fails.log)
	}
	if files, err := os.ReadDir(temp); err != nil || len(files) != 0 {
		t.Errorf("%v left behind (%v)", files, err)
	}
	// One that cannot write says why.
	t.Setenv("TMPDIR", filepath.Join(temp, "missing"))
	fails = &fakeTB{failed: true}
	f, _ = recorded(t, fails)
	hello(t, f, 0, 1, []byte("there"))
	if path := fails.end(); path != "" || !strings.Contains(fails.log, "missing") {
		t.Errorf("without a directory, the log is %q", fails.log)
	}
}

// TestNoTesting: a program with a fabric in it has no flags of go test.
func TestNoTesting(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "vswitch/vswitch/fabric").Output()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(strings.Fields(string(out)), "testing") {
		t.Error("package testing is part of it")
	}
}

// TestPcapngIsRead by others than the library that wrote part of it.
func TestPcapngIsRead(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("tcpdump is not installed")
	}
	artifacts(t, false)
	tb := &fakeTB{failed: true}
	f, _ := recorded(t, tb)
	for i := range 8 { // every padding
		hello(t, f, 0, 1, make([]byte, i))
	}
	out, err := exec.Command("tcpdump", "-nr", tb.end()).Output()
	if err != nil {
		t.Fatal(err)
	}
	src := netip.AddrPortFrom(f.Pods[0].IPs[0].Addr(), 1000)
	if got := strings.Count(string(out), fmt.Sprintf("IP %s.%d > ", src.Addr(), src.Port())); got != 8*4 {
		t.Errorf("tcpdump reads %d packets, want %d:\n%s", got, 8*4, out)
	}
}
