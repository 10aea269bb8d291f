package gossip

import (
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// quiet is how long a kind of warning stays silent after it was logged.
const quiet = time.Minute

// lines turns memberlist's log into slog records. memberlist tells about bad
// input in its log alone, so bad input is recognised here, counted, and logged
// once a minute.
type lines struct {
	log      *slog.Logger
	counters *counters
	// refused is told in a sentence about traffic that this node's keys do not
	// fit. It must not log to this.
	refused func(problem string)

	mu    sync.Mutex
	spoke map[string]*silence
}

type silence struct {
	since  time.Time
	unsaid int
}

func newLines(l *slog.Logger, c *counters, refused func(string)) *lines {
	return &lines{log: l, counters: c, refused: refused, spoke: map[string]*silence{}}
}

func (l *lines) logger() *log.Logger { return log.New(l, "", 0) }

// badInput says how memberlist words what it threw away (net.go, label.go and
// security.go of v0.7.0). The first match counts.
var badInput = []struct {
	words string
	what  string
	fix   string
	count func(*counters) *atomic.Uint64
}{
	{`unacceptable label ""`, "dropped what is no gossip traffic", "find out who sends to the gossip port", (*counters).garbageCount},
	{"unacceptable label", "dropped traffic of another cluster", "give the nodes of one cluster the same cluster name, and those of different ones different join lists", (*counters).otherCount},
	{"no installed keys could decrypt", "dropped traffic encrypted with an unknown key", "install this cluster's key on the node that sends", (*counters).keyCount},
	{"remote state is not encrypted", "dropped traffic without encryption", "give the node that sends this cluster's key", (*counters).keyCount},
	{"encryption is not configured", "dropped encrypted traffic", "give this node the cluster's key", (*counters).keyCount},
	{"unsupported encryption version", "dropped what is no encrypted gossip traffic", "give the node that sends this cluster's key", (*counters).keyCount},
	{"cannot decrypt empty payload", "dropped what is no gossip traffic", "find out who sends to the gossip port", (*counters).garbageCount},
	{"too small to decrypt", "dropped what is no encrypted gossip traffic", "give the node that sends this cluster's key", (*counters).keyCount},
	{"label header", "dropped what is no gossip traffic", "find out who sends to the gossip port", (*counters).garbageCount},
	{"cannot decode label", "dropped what is no gossip traffic", "find out who sends to the gossip port", (*counters).garbageCount},
	{"not supported", "dropped an unknown gossip message", "find out who sends to the gossip port", (*counters).garbageCount},
	{"invalid msgType", "dropped an unknown gossip message", "find out who sends to the gossip port", (*counters).garbageCount},
	{"missing message type", "dropped an empty gossip message", "find out who sends to the gossip port", (*counters).garbageCount},
	{"invalid checksum", "dropped a damaged gossip message", "look for a network that corrupts packets", (*counters).garbageCount},
	{"truncated messages", "dropped a truncated gossip message", "find out who sends to the gossip port", (*counters).garbageCount},
	{"packet too short", "dropped an empty packet", "find out who sends to the gossip port", (*counters).garbageCount},
	{"Failed to decode", "dropped a malformed gossip message", "find out who sends to the gossip port", (*counters).garbageCount},
	{"Failed to decompress", "dropped a malformed gossip message", "find out who sends to the gossip port", (*counters).garbageCount},
	{"failed to receive", "dropped a malformed gossip stream", "find out who connects to the gossip port", (*counters).garbageCount},
	{"Failed to receive user message", "dropped a malformed gossip stream", "find out who connects to the gossip port", (*counters).garbageCount},
	{"Failed to read remote state", "dropped a malformed gossip stream", "find out who connects to the gossip port", (*counters).garbageCount},
}

func (c *counters) garbageCount() *atomic.Uint64 { return &c.garbage }
func (c *counters) otherCount() *atomic.Uint64   { return &c.otherCluster }
func (c *counters) keyCount() *atomic.Uint64     { return &c.badKey }

// routine are lines that memberlist calls warnings and errors, and that are
// the ordinary end of a node, or that this package tells itself.
var routine = []string{
	"Refuting", "Conflicting address", "ignoring alive message", "Got ping for unexpected node", "fallback TCP ping",
	"Failed to send", "Failed to forward ack", "Push/Pull with", "but UDP probes failed", "Failed UDP ping", "Failed push/pull merge",
	"Failed to push local state",
}

// Write takes one line of memberlist's log.
func (l *lines) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level, text := "", line
	if strings.HasPrefix(line, "[") {
		if i := strings.IndexByte(line, ']'); i > 0 {
			level, text = line[1:i], strings.TrimSpace(line[i+1:])
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if level == "DEBUG" || level == "INFO" {
		l.log.Debug("memberlist", "says", text)
		return len(p), nil
	}
	for i := range badInput {
		b := &badInput[i]
		if strings.Contains(text, b.words) {
			n := b.count(l.counters)
			n.Add(1)
			if n == &l.counters.badKey {
				l.refused(fmt.Sprintf("%s from %s: %s", b.what, sender(text), b.fix))
			}
			l.warn(b.what, "fix", b.fix, "detail", text)
			return len(p), nil
		}
	}
	for _, r := range routine {
		if strings.Contains(text, r) {
			l.log.Debug("memberlist", "says", text)
			return len(p), nil
		}
	}
	l.warn("memberlist", "says", text)
	return len(p), nil
}

// sender returns the address that memberlist names at the end of a line. The
// port of a stream is a new one each time.
func sender(text string) string {
	_, from, _ := strings.Cut(text, "from=")
	if a, err := netip.ParseAddrPort(from); err == nil {
		return a.Addr().Unmap().String()
	}
	return "an unknown address"
}

// warn logs what, unless the same was logged within the last minute.
func (l *lines) warn(what string, args ...any) {
	l.mu.Lock()
	s := l.spoke[what]
	now := time.Now()
	if s != nil && now.Sub(s.since) < quiet {
		s.unsaid++
		l.mu.Unlock()
		return
	}
	if s != nil && s.unsaid > 0 {
		args = append(args, "more", s.unsaid)
	}
	l.spoke[what] = &silence{since: now}
	l.mu.Unlock()
	l.log.Warn(what, args...)
}
