package kube

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vswitch/vswitch/cluster"
)

// Objects are what was read, by kind, in the order of the input.
type Objects = cluster.Objects

// maxInput bounds one file, bytes: a hundred times what a large cluster needs.
const maxInput = 256 << 20

// Load reads manifests: files, directories (recursive, files named .yaml, .yml
// or .json in order of name, those beginning with a dot left out), and "-" for
// stdin. A file named twice is read once.
//
// If anything is wrong, Load returns no objects, and an error that joins one
// *Error for each thing, in the order of the input. Warnings are returned in
// both cases. What can be known of policies that are wrong StandIns returns.
func Load(paths []string, stdin io.Reader) (*Objects, []Warning, error) {
	l := newLoader()
	for _, p := range paths {
		l.path(p, stdin)
	}
	return l.result()
}

// Parse reads the documents of data, which messages call by name.
func Parse(name string, data []byte) (*Objects, []Warning, error) {
	l := newLoader()
	l.file(name, data)
	return l.result()
}

type loader struct {
	objects  Objects
	standIns Objects  // for policies that are refused
	unclear  []string // policies that are refused without one
	warnings []Warning
	errs     []*Error
	files    map[string]int               // in the order they were read
	read     map[string]bool              // files that were read, by absolute path
	first    map[cluster.Ref]string       // where each object was first seen
	origin   map[cluster.Object]*manifest // of the objects read
	// namesOnly: names are all that is read of objects.
	namesOnly bool
	names     []cluster.Ref
}

func newLoader() *loader {
	return &loader{files: map[string]int{}, read: map[string]bool{}, first: map[cluster.Ref]string{}, origin: map[cluster.Object]*manifest{}}
}

func (l *loader) result() (*Objects, []Warning, error) {
	l.conflicts()
	l.sort()
	if len(l.errs) > 0 {
		return nil, l.warnings, &refusal{join(l.errs), &l.standIns, l.unclear}
	}
	return &l.objects, l.warnings, nil
}

// sort puts errors and warnings in the order of the input.
func (l *loader) sort() {
	slices.SortStableFunc(l.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(l.files[a.File], l.files[b.File]), cmp.Compare(a.Line, b.Line))
	})
	slices.SortStableFunc(l.warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(l.files[a.File], l.files[b.File]), cmp.Compare(a.Line, b.Line))
	})
}

func (l *loader) fail(err *Error) {
	l.begin(err.File)
	l.errs = append(l.errs, err)
}

func (l *loader) path(path string, stdin io.Reader) {
	if path == "-" {
		if l.read["-"] {
			return
		}
		l.read["-"] = true
		if stdin == nil {
			l.fail(&Error{File: "stdin", Message: "there is no standard input"})
			return
		}
		l.stream("stdin", stdin)
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.fail(&Error{File: path, Message: reason(err)})
	case info.IsDir():
		l.directory(path)
	default:
		l.open(path)
	}
}

// reason is what went wrong without the path, which the message has already.
func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// directory reads what lies below dir. Links to files are followed, links to
// directories are not: they could lead round in circles.
func (l *loader) directory(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		l.fail(&Error{File: dir, Message: reason(err)})
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if e.IsDir() {
			l.directory(path)
			continue
		}
		switch strings.ToLower(filepath.Ext(path)) {
		case ".yaml", ".yml", ".json":
		default:
			continue
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			l.fail(&Error{File: path, Message: reason(err)})
		case info.Mode().IsRegular():
			l.open(path)
		}
	}
}

func (l *loader) open(path string) {
	if abs, err := filepath.Abs(path); err == nil {
		if l.read[abs] {
			return
		}
		l.read[abs] = true
	}
	f, err := os.Open(path)
	if err != nil {
		l.fail(&Error{File: path, Message: reason(err)})
		return
	}
	defer f.Close()
	l.stream(path, f)
}

func (l *loader) stream(name string, r io.Reader) {
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	switch {
	case err != nil:
		l.fail(&Error{File: name, Message: reason(err)})
	case len(data) > maxInput:
		l.fail(&Error{File: name, Message: fmt.Sprintf("is larger than %d MiB; split it into several files", maxInput>>20)})
	default:
		l.file(name, data)
	}
}

// begin notes that what is said from here on is of file name.
func (l *loader) begin(name string) {
	if l.files[name] == 0 {
		l.files[name] = len(l.files) + 1
	}
}

func (l *loader) file(name string, data []byte) {
	l.begin(name)
	for _, d := range split(name, data) {
		tree, errs := d.tree()
		if errs != nil {
			l.errs = append(l.errs, errs...)
			continue
		}
		if tree != nil {
			l.manifest(&manifest{doc: d}, tree, typeMeta{})
		}
	}
}

// conflicts checks the objects against each other.
func (l *loader) conflicts() {
	found := cluster.Conflicts(l.objects.Nodes, l.objects.Pods)
	for _, c := range append(found, cluster.ServiceConflicts(l.objects.Services)...) {
		if m := l.origin[c.Object]; m != nil {
			l.fail(m.failure(c.Ref.String(), c.Field, c.Message))
		}
	}
}

// record adds an object, and refuses the second one of a name.
func (l *loader) record(m *manifest, o cluster.Object) {
	ref := cluster.RefOf(o)
	if where, twice := l.first[ref]; twice {
		l.fail(m.failure(ref.String(), "metadata.name", "is given twice; the first one is at "+where))
		return
	}
	source := m.source()
	o.Metadata().Source, l.first[ref], l.origin[o] = source, source, m
	l.objects.Add(o)
}

// manifest is one object of a document: the document itself, or an item of a
// List in it.
type manifest struct {
	doc  *document
	path string // of the item, "items[2]"; empty for the document
}

// line returns the line of a field of the object.
func (m *manifest) line(field string) int {
	if m.path == "" && field == "" {
		return m.doc.line
	}
	return m.doc.locate(m.path + "." + field)
}

// source is where the object begins, "file:line".
func (m *manifest) source() string { return fmt.Sprintf("%s:%d", m.doc.file, m.line("")) }

func (m *manifest) failure(object, field, message string) *Error {
	return m.doc.failure(m.line(field), object, field, message)
}

func (m *manifest) sortProblems(problems []problem) {
	slices.SortStableFunc(problems, func(a, b problem) int { return cmp.Compare(m.line(a.field), m.line(b.field)) })
}
