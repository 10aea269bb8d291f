package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vswitch/vswitch/cluster"
)

// A state directory holds one file: a snapshot of what is desired, followed by
// the changes since. Each is a line of its own, a checksum (CRC-32C, 8 hex
// digits), a space, and JSON. A change is on the disk before anybody sees it.
// Status is not kept: whoever runs the pods reports it again.
const journalName = "objects.journal"

// journalVersion is raised when older programs could not read the file, or
// would lose some of it. 2: services and their endpoints. 3: policies.
const journalVersion = 3

// saved is one line.
type saved struct {
	Version int `json:"version"`
	// Revision is one that no State had when the line was written, so that
	// revisions do not go back over a restart.
	Revision uint64          `json:"revision"`
	Put      cluster.Objects `json:"put,omitzero"`
	Delete   []cluster.Ref   `json:"delete,omitempty"`
}

// revisionBlock is how many revisions a line lays claim to.
const revisionBlock = 10000

type journal struct {
	path     string
	file     *os.File
	size     int64  // of the file
	snapshot int64  // size after the last rewrite
	claimed  uint64 // revisions below it may be used
}

// openJournal reads what dir holds and gets ready to write. A damaged file is
// set aside; what could be read of it counts.
func openJournal(dir string, now time.Time) (*journal, saved, []string, error) {
	fail := func(err error) (*journal, saved, []string, error) {
		return nil, saved{}, nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	j := &journal{path: filepath.Join(dir, journalName)}
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	kept, problem, err := replay(data)
	if err != nil {
		return fail(err)
	}
	var problems []string
	if problem != "" {
		aside := j.path + ".damaged-" + now.Format("20060102T150405")
		if err := os.WriteFile(aside, data, 0o600); err != nil {
			return fail(err)
		}
		problems = append(problems, fmt.Sprintf("%s: %s; what stood before it was loaded, and the file is kept as %s",
			j.path, problem, filepath.Base(aside)))
	}
	if err := j.rewrite(&kept); err != nil {
		return fail(err)
	}
	return j, kept, problems, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// replay returns what the lines amount to, and in a sentence what kept it from
// reading all of them. A last line without its end is no problem: it is a
// change that nobody saw.
func replay(data []byte) (kept saved, problem string, err error) {
	puts := map[cluster.Ref]cluster.Object{}
	var order []cluster.Ref
	for number := 1; len(data) > 0; number++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			break
		}
		data = rest
		var s saved
		sum, text, ok := bytes.Cut(line, []byte(" "))
		want, perr := strconv.ParseUint(string(sum), 16, 32)
		if !ok || perr != nil || uint64(crc32.Checksum(text, castagnoli)) != want {
			problem = fmt.Sprintf("line %d is damaged", number)
			break
		}
		if jerr := json.Unmarshal(text, &s); jerr != nil {
			problem = fmt.Sprintf("line %d cannot be read: %v", number, jerr)
			break
		}
		if s.Version > journalVersion {
			return saved{}, "", fmt.Errorf("%s was written by a newer program (version %d); use that, or another directory", journalName, s.Version)
		}
		kept.Revision = max(kept.Revision, s.Revision)
		for _, r := range s.Delete {
			delete(puts, r)
		}
		for o := range s.Put.All() {
			r := cluster.RefOf(o)
			if _, again := puts[r]; !again {
				order = append(order, r)
			}
			puts[r] = o
		}
	}
	for _, r := range order {
		if o, ok := puts[r]; ok {
			kept.Put.Add(o)
			delete(puts, r)
		}
	}
	return kept, problem, nil
}

func encodeLine(s *saved) ([]byte, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%08x ", crc32.Checksum(text, castagnoli)), append(text, '\n')...), nil
}

// rewrite replaces the file by a snapshot, so that at every moment there is
// either the old file or the new one, whole.
func (j *journal) rewrite(s *saved) error {
	s.Version = journalVersion
	line, err := encodeLine(s)
	if err != nil {
		return err
	}
	temp := j.path + ".new"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	if err = errors.Join(err, f.Sync()); err != nil {
		return errors.Join(err, f.Close(), os.Remove(temp))
	}
	if err := os.Rename(temp, j.path); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := syncDir(filepath.Dir(j.path)); err != nil {
		return errors.Join(err, f.Close())
	}
	if j.file != nil {
		_ = j.file.Close() // of the file that is no more
	}
	j.file, j.size, j.snapshot, j.claimed = f, int64(len(line)), int64(len(line)), s.Revision
	return nil
}

// write appends what changed from before to after. It returns once that is on
// the disk.
func (j *journal) write(before, after *cluster.State) error {
	s := saved{Version: journalVersion, Revision: j.claimed}
	changesOf(before, after, &s)
	if after.Revision >= j.claimed {
		s.Revision = after.Revision + revisionBlock
	} else if s.Put.Len()+len(s.Delete) == 0 {
		return nil
	}
	line, err := encodeLine(&s)
	if err != nil {
		return err
	}
	if j.size+int64(len(line)) > 2*j.snapshot+1<<20 {
		whole := saved{Revision: s.Revision}
		changesOf(&cluster.State{}, after, &whole)
		return j.rewrite(&whole)
	}
	_, err = j.file.Write(line)
	if err = errors.Join(err, j.file.Sync()); err != nil {
		// What follows must not stand behind half a line.
		_, seek := j.file.Seek(j.size, 0)
		return fmt.Errorf("write %s: %w", j.path, errors.Join(err, j.file.Truncate(j.size), seek))
	}
	j.size += int64(len(line))
	j.claimed = s.Revision
	return nil
}

func (j *journal) close() error { return j.file.Close() }

// changesOf fills in what is to be kept of the changes.
func changesOf(before, after *cluster.State, s *saved) {
	d := before.Diff(after)
	for old, now := range d.All() {
		old, now = durable(old), durable(now)
		switch {
		case old == nil && now == nil:
		case now == nil:
			s.Delete = append(s.Delete, cluster.RefOf(old))
		case old == nil || !equalBut(old, now, func(m *cluster.Meta) { m.ResourceVersion = 0 }):
			s.Put.Add(now)
		}
	}
}

// durable returns what is kept of an object: not its status, and nothing of
// slices that are derived, which are derived again.
func durable(o cluster.Object) cluster.Object {
	if o == nil || derived(o) {
		return nil
	}
	switch v := o.(type) {
	case *cluster.Deployment:
		kept := *v
		kept.CurrentReplicas, kept.UpdatedReplicas, kept.ReadyReplicas, kept.AvailableReplicas = 0, 0, 0, 0
		return &kept
	case *cluster.Pod:
		kept := *v
		clearStatus(&kept)
		return &kept
	case *cluster.Service:
		kept := *v
		kept.Conditions = nil // the load balancer's addresses are kept: they were given out
		return &kept
	}
	return o
}

// load puts what was kept into the Store. Pods that were being deleted are
// gone: whoever ran them is, too. What has a status has lost it, and so is of a
// new version.
func (s *step) load(kept *saved) {
	for o := range kept.Put.All() {
		switch o.Kind() {
		case cluster.KindPod:
			if o.Metadata().Deleted.IsZero() {
				s.put(o)
			}
		case cluster.KindNode, cluster.KindDeployment, cluster.KindService:
			s.put(o)
		default:
			s.tx.Put(o)
		}
	}
}
