package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// maxLogSize is where a log file is rotated, in bytes. One old file is kept.
const maxLogSize = 10 << 20

// maxLogLine is where a line is cut in parts, in bytes, as the kubelet does.
const maxLogLine = 16 << 10

// logFile holds the output of one run of a process, a record a line, in the
// format of the CRI (kubelet log design): time, stream, F or P (the line goes
// on in the next record), text. It is safe for concurrent use.
type logFile struct {
	path string
	max  int64

	mu      sync.Mutex
	f       *os.File
	size    int64
	changed chan struct{} // closed and replaced at each record, and at the end
	ended   bool
}

// newLogFile opens the log at path, or goes on with the one that is there.
func newLogFile(path string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	l := &logFile{path: path, max: maxLogSize, changed: make(chan struct{})}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, info.Size()
	return nil
}

// copy records what r says until it ends.
func (l *logFile) copy(stream string, r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			l.record(stream, line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// record appends a line, which ends with a newline unless it is a part.
func (l *logFile) record(stream string, line []byte) {
	tag := "P"
	if text, ok := bytes.CutSuffix(line, []byte("\n")); ok {
		tag, line = "F", text
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return
	}
	rec := fmt.Appendf(nil, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, tag, line)
	if l.size > 0 && l.size+int64(len(rec)) > l.max {
		l.f.Close()
		l.f = nil
		if os.Rename(l.path, l.path+".1") != nil || l.open() != nil {
			return
		}
	}
	// A full disk loses lines, never the process that writes them.
	n, _ := l.f.Write(rec)
	l.size += int64(n)
	close(l.changed)
	l.changed = make(chan struct{})
}

// note records a line of the supervisor's own.
func (l *logFile) note(format string, args ...any) {
	l.record("vswitch", fmt.Appendf(nil, format+"\n", args...))
}

// end closes the file. Followers see the rest and return.
func (l *logFile) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
	close(l.changed)
}

// remove ends the log and deletes its files.
func (l *logFile) remove() {
	l.end()
	os.Remove(l.path)
	os.Remove(l.path + ".1")
}

// LogOptions choose what a log shows.
type LogOptions struct {
	Follow     bool      `json:"follow,omitempty"`     // go on until the process ends
	Previous   bool      `json:"previous,omitempty"`   // of the run before the current one
	Timestamps bool      `json:"timestamps,omitempty"` // put the time before each line
	Tail       int       `json:"tail,omitempty"`       // the last lines only; 0: all
	Since      time.Time `json:"since,omitzero"`       // lines from then on
}

// read writes the log to w, and what comes while o.Follow says so.
func (l *logFile) read(ctx context.Context, w io.Writer, o LogOptions) error {
	old, cur, err := l.readers()
	if err != nil {
		return err
	}
	defer func() { cur.Close() }()
	v := &logView{o: o}
	if old != nil {
		v.feed(old)
		old.Close()
	}
	v.feed(cur)
	if err := v.flush(w); err != nil {
		return err
	}
	v.o.Tail = 0
	for o.Follow {
		l.mu.Lock()
		changed, ended := l.changed, l.ended
		l.mu.Unlock()
		// Read after taking the channel, so that no record falls between.
		v.feed(cur)
		if next := l.next(cur); next != nil {
			v.feed(cur) // what was written between the last read and the rotation
			cur.Close()
			cur = next
			v.feed(cur)
		}
		if err := v.flush(w); err != nil {
			return err
		}
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// readers opens the rotated file, if there is one, and the current one.
func (l *logFile) readers() (old, cur *os.File, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cur, err = os.Open(l.path); err != nil {
		return nil, nil, err
	}
	if old, err = os.Open(l.path + ".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		cur.Close()
		return nil, nil, err
	}
	return old, cur, nil
}

// next opens the current file if cur was rotated away.
func (l *logFile) next(cur *os.File) *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, err1 := cur.Stat()
	b, err2 := os.Stat(l.path)
	if err1 != nil || err2 != nil || os.SameFile(a, b) {
		return nil
	}
	f, _ := os.Open(l.path)
	return f
}

// logView turns records into what the reader asked for.
type logView struct {
	o       LogOptions
	rest    []byte   // of a record that is not whole yet
	lines   [][]byte // with their newline, but for parts
	partial bool     // the last line goes on
}

// feed reads records up to the end of r.
func (v *logView) feed(r io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		v.rest = append(v.rest, buf[:n]...)
		for {
			i := bytes.IndexByte(v.rest, '\n')
			if i < 0 {
				break
			}
			v.add(v.rest[:i])
			v.rest = v.rest[i+1:]
		}
		if n == 0 || err != nil {
			return
		}
	}
}

func (v *logView) add(rec []byte) {
	f := bytes.SplitN(rec, []byte(" "), 4)
	if len(f) != 4 {
		return
	}
	if !v.o.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(f[0])); err == nil && at.Before(v.o.Since) {
			return
		}
	}
	var line []byte
	if v.o.Timestamps && !v.partial {
		line = append(append(line, f[0]...), ' ')
	}
	line = append(line, f[3]...)
	whole := string(f[2]) == "F"
	if whole {
		line = append(line, '\n')
	}
	if v.partial && len(v.lines) > 0 {
		last := len(v.lines) - 1
		v.lines[last] = append(v.lines[last], line...)
	} else {
		v.lines = append(v.lines, line)
	}
	v.partial = !whole
	if v.o.Tail > 0 && len(v.lines) > v.o.Tail {
		v.lines = slices.Delete(v.lines, 0, len(v.lines)-v.o.Tail)
	}
}

// flush writes what has gathered.
func (v *logView) flush(w io.Writer) error {
	for _, line := range v.lines {
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	v.lines = v.lines[:0]
	return nil
}
