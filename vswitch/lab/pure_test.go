package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vswitch/vswitch/cluster"
)

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func TestBackoff(t *testing.T) {
	b := containerBackoff()
	var got []time.Duration
	for range 9 {
		got = append(got, b.next(time.Second))
	}
	s := time.Second
	if want := []time.Duration{0, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s, 300 * s}; !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
	if w := b.next(10 * time.Minute); w != 0 {
		t.Errorf("after a calm run it waits %s, want 0", w)
	}
	if w := b.next(time.Second); w != 10*s {
		t.Errorf("then it waits %s, want 10s", w)
	}
}

func TestEtc(t *testing.T) {
	p := &cluster.Pod{Meta: cluster.Meta{Namespace: "shop", Name: "db-0"}, Subdomain: "db",
		HostAliases: []cluster.HostAlias{{IP: netip.MustParseAddr("192.0.2.1"), Names: []string{"a.example", "b.example"}}}}
	want := "# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n" +
		"10.244.1.5\tdb-0.db.shop.svc.cluster.local\tdb-0\n" +
		"fd00::5\tdb-0.db.shop.svc.cluster.local\tdb-0\n" +
		"\n# Entries added by HostAliases.\n" +
		"192.0.2.1\ta.example\tb.example\n"
	if diff := cmp.Diff(want, hostsFile(p, addrs("10.244.1.5", "fd00::5"), "cluster.local")); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	long := &cluster.Pod{Meta: cluster.Meta{Name: strings.Repeat("a", 62) + "-b"}}
	if got, want := hostName(long), strings.Repeat("a", 62); got != want {
		t.Errorf("host name %q, want %q", got, want)
	}
	for _, tc := range [][2]string{
		{"passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\nnetworks: files\n", "passwd: files\nhosts: files dns\nnetworks: files\n"},
		{"passwd: files\n", "passwd: files\nhosts: files dns\n"},
		{"", "hosts: files dns\n"},
	} {
		if got := nsswitchConf(tc[0]); strings.TrimLeft(got, "\n") != tc[1] {
			t.Errorf("nsswitch.conf of %q: %q, want %q", tc[0], got, tc[1])
		}
	}
}

func TestShortName(t *testing.T) {
	a, b := shortName(strings.Repeat("x", 80)+"1", 40), shortName(strings.Repeat("x", 80)+"2", 40)
	if len(a) != 40 || a == b {
		t.Errorf("names %q and %q, want 40 bytes each and different", a, b)
	}
}

func TestMessage(t *testing.T) {
	var buf bytes.Buffer
	want := []message{{Line: "a"}, {Ready: true}, {Error: "x", Input: true}}
	for _, m := range want {
		if err := writeMessage(&buf, m); err != nil {
			t.Fatal(err)
		}
	}
	whole := buf.Bytes()
	for _, w := range want {
		var m message
		if err := readMessage(&buf, &m); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, m); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	for n := range len(whole) {
		r := bytes.NewReader(whole[:n])
		var err error
		for err == nil {
			err = readMessage(r, &message{})
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v, want an end of file", n, err)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Add([]byte("\x00\x00\x00\x0e{\"ready\":true}rest"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var m message
		if err := readMessage(r, &m); err != nil {
			return
		}
		// What was understood is what would be written, and nothing after it was read.
		if read := len(data) - r.Len(); read < 4 || int(data[3])+int(data[2])<<8+int(data[1])<<16 != read-4 {
			t.Errorf("read %d bytes of %q", read, data)
		}
		var buf bytes.Buffer
		var again message
		if err := errors.Join(writeMessage(&buf, m), readMessage(&buf, &again)); err != nil {
			t.Error(err)
		} else if diff := cmp.Diff(m, again); diff != "" {
			t.Errorf("changed on the way (-first +second):\n%s", diff)
		}
	})
}

// readLog returns what a log shows.
func readLog(t *testing.T, l *logFile, o LogOptions) string {
	t.Helper()
	var b strings.Builder
	if err := l.read(t.Context(), &b, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLogFile(t *testing.T) {
	l, err := newLogFile(filepath.Join(t.TempDir(), "x", "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 3*maxLogLine)
	l.copy("stdout", strings.NewReader("one\n\n"+long+"\nlast"))
	if got, want := readLog(t, l, LogOptions{}), "one\n\n"+long+"\nlast"; got != want {
		t.Errorf("log of %d bytes, want %d: %.40q", len(got), len(want), got)
	}
	if got, want := readLog(t, l, LogOptions{Tail: 2}), long+"\nlast"; got != want {
		t.Errorf("last two lines: %d bytes, want %d", len(got), len(want))
	}
	if got := readLog(t, l, LogOptions{Since: time.Now().Add(time.Hour)}); got != "" {
		t.Errorf("lines from the future: %q", got)
	}
	first, rest, _ := strings.Cut(readLog(t, l, LogOptions{Timestamps: true}), " ")
	if _, err := time.Parse(time.RFC3339Nano, first); err != nil || !strings.HasPrefix(rest, "one\n") {
		t.Errorf("line with time: %q %.20q", first, rest)
	}
	raw, _ := os.ReadFile(l.path)
	if line, _, _ := strings.Cut(string(raw), "\n"); !strings.HasSuffix(line, " stdout F one") {
		t.Errorf("record %q, want the CRI's format", line)
	}
}

func TestLogRotation(t *testing.T) {
	l, err := newLogFile(filepath.Join(t.TempDir(), "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	l.max = 2000
	r, w := io.Pipe()
	follow := bufio.NewReader(r)
	done := make(chan error)
	go func() { done <- l.read(context.Background(), w, LogOptions{Follow: true}) }()
	var all strings.Builder
	for i := range 200 {
		line := fmt.Sprintf("line %d\n", i)
		all.WriteString(line)
		l.record("stdout", []byte(line))
		// The follower looks before the file is rotated a second time.
		if got, err := follow.ReadString('\n'); got != line {
			t.Fatalf("the follower saw %q (%v), want %q", got, err, line)
		}
	}
	last := readLog(t, l, LogOptions{})
	l.end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(all.String(), last) || len(last) < 200 {
		t.Errorf("log ends with %q", last[max(0, len(last)-40):])
	}
	files, _ := filepath.Glob(l.path + "*")
	total := int64(0)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if len(files) != 2 || total > 2*l.max {
		t.Errorf("%d files of %d bytes, want 2 of at most %d", len(files), total, 2*l.max)
	}
	l.remove()
	if files, _ := filepath.Glob(l.path + "*"); len(files) != 0 {
		t.Errorf("%v left after remove", files)
	}
}

func TestProgress(t *testing.T) {
	store := cluster.NewStore()
	put := func(pods ...*cluster.Pod) *cluster.State {
		if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
			for _, p := range pods {
				tx.Put(p)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return store.State()
	}
	pod := func(change func(*cluster.Pod)) *cluster.Pod {
		p := &cluster.Pod{Meta: cluster.Meta{Namespace: "shop", Name: "a"}, Node: "node1"}
		change(p)
		return p
	}
	crashed := []cluster.ContainerStatus{{Name: "main", Finished: time.Unix(1, 0), ExitCode: 1}}
	said := progress{}
	for i, step := range []struct {
		pod     func(*cluster.Pod)
		line    string
		settled bool
	}{
		{func(p *cluster.Pod) { p.Node = "" }, "", false},
		{func(p *cluster.Pod) { p.Node, p.Reason = "", "no node has its labels" }, "pod shop/a no node has its labels", true},
		{func(p *cluster.Pod) {}, "", false},
		{func(p *cluster.Pod) { p.Ready, p.IPs = true, addrs("10.244.0.2") }, "pod shop/a is running on node1: 10.244.0.2", true},
		{func(p *cluster.Pod) { p.Ready, p.IPs = true, addrs("10.244.0.2") }, "", true},
		{func(p *cluster.Pod) { p.Statuses, p.Reason = crashed, "it broke; next try at 10:00" }, "pod shop/a is failing: it broke", true},
		{func(p *cluster.Pod) { p.Statuses, p.Reason = crashed, "it broke; next try at 10:01" }, "", true},
		{func(p *cluster.Pod) { p.Ready, p.IPs = true, addrs("10.244.0.2") }, "", true},
		{func(p *cluster.Pod) { p.Statuses, p.Reason = crashed, "it broke; next try at 10:02" }, "", true},
		{func(p *cluster.Pod) { p.Phase, p.Reason = cluster.PodFailed, "it broke" }, "pod shop/a failed: it broke", true},
		{func(p *cluster.Pod) { p.Deleted = time.Unix(1, 0) }, "", true},
	} {
		state := put(pod(step.pod))
		if got := strings.Join(said.lines(state), "\n"); got != step.line {
			t.Errorf("step %d: said %q, want %q", i, got, step.line)
		}
		if got := settled(state); got != step.settled {
			t.Errorf("step %d: settled %t, want %t", i, got, step.settled)
		}
	}
}

// TestSettledDeployment: a Deployment's status is written after its pods are.
func TestSettledDeployment(t *testing.T) {
	d := cluster.Deployment{Meta: cluster.Meta{Namespace: "shop", Name: "web"}, Replicas: 2}
	for _, tc := range []struct {
		name           string
		pods           int // that are ready, or ended if failed
		failed         bool
		current, ready int
		want           bool
	}{
		{"pods are missing", 1, false, 1, 1, false},
		{"nothing is written", 2, false, 0, 0, false},
		{"one is written", 2, false, 2, 1, false},
		{"all is written", 2, false, 2, 2, true},
		{"one too many is written", 2, false, 2, 3, false},
		{"replicas ended", 2, true, 0, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := cluster.NewStore()
			err := store.Update(cluster.Desired, func(tx *cluster.Txn) error {
				d := d
				d.CurrentReplicas, d.ReadyReplicas = tc.current, tc.ready
				tx.Put(&d)
				for i := range tc.pods {
					p := &cluster.Pod{Meta: cluster.Meta{Namespace: "shop", Name: fmt.Sprint("web-", i)}, Owner: d.Key(), Node: "node1", Ready: !tc.failed}
					if tc.failed {
						p.Phase = cluster.PodFailed
					}
					tx.Put(p)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := settled(store.State()); got != tc.want {
				t.Errorf("settled is %t, want %t", got, tc.want)
			}
		})
	}
}

func TestErrorsOverHTTP(t *testing.T) {
	for _, kind := range []error{ErrInput, ErrNotFound, ErrConflict} {
		err := failure(kind, "pod %s is odd", "a/b")
		back := errorOf(statusOf(err), err.Error())
		if !errors.Is(back, kind) || back.Error() != "pod a/b is odd" {
			t.Errorf("%v became %v", err, back)
		}
	}
	if back := errorOf(statusOf(errors.New("x")), "x"); errors.Is(back, ErrInput) || back.Error() != "x" {
		t.Errorf("a plain error became %v", back)
	}
}
