package kube

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Error is one thing that is wrong with the input.
type Error struct {
	File string // as given to Load; "stdin" for standard input
	Line int    // from 1; of the field, or of what should have held it
	// Document counts the documents of the file from 1; 0 where the file has
	// only one.
	Document int
	Object   string // "Pod shop/web-1"; empty where it is not known
	Field    string // "spec.containers[0].image"; empty for the whole object
	Message  string
}

// Error returns one line: `pods.yaml:12: Pod shop/web-1: spec.nodeNam: unknown field; …`.
func (e *Error) Error() string {
	return place(e.File, e.Line, e.Document, e.Object, e.Field, e.Message)
}

// refusal is the error of Load and Parse. errs joins the Errors.
type refusal struct {
	errs     error
	standIns *Objects
	unclear  []string
}

func (r *refusal) Error() string { return r.errs.Error() }

func (r *refusal) Unwrap() []error { return r.errs.(interface{ Unwrap() []error }).Unwrap() }

// StandIns returns policies that stand for those which Load or Parse refused
// with err, as far as it is certain which pods those select: with Invalid set
// to the first reason, and without rules. Who would rather isolate those pods
// than leave them open uses them; others need not ask. It is never nil.
func StandIns(err error) *Objects {
	var r *refusal
	if errors.As(err, &r) {
		return r.standIns
	}
	return &Objects{}
}

// Unclear names the policies that Load or Parse refused with err and for which
// nothing can stand, as Error.Object does.
func Unclear(err error) []string {
	var r *refusal
	if errors.As(err, &r) {
		return r.unclear
	}
	return nil
}

// Remark returns err, which is one of Load or Parse or wraps one, with text at
// the end of the last thing that it says of an object, named as in Error.Object.
func Remark(err error, object, text string) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	errs := slices.Clone(r.Unwrap())
	for i, err := range slices.Backward(errs) {
		var e *Error
		if errors.As(err, &e) && e.Object == object {
			remarked := *e
			remarked.Message += text
			errs[i] = &remarked
			break
		}
	}
	return &refusal{errors.Join(errs...), r.standIns, r.unclear}
}

// Warning is something in the input that was skipped or has no effect.
type Warning struct {
	File     string
	Line     int
	Document int
	Kind     string // of the object, as written
	Object   string // "Service shop/web"
	Message  string
}

// String returns one line, in the form of an Error.
func (w Warning) String() string {
	return place(w.File, w.Line, w.Document, w.Object, "", w.Message)
}

func place(file string, line, document int, rest ...string) string {
	var b strings.Builder
	b.WriteString(file)
	if line > 0 {
		fmt.Fprintf(&b, ":%d", line)
	}
	if document > 0 {
		fmt.Fprintf(&b, ": document %d", document)
	}
	for _, r := range rest {
		if r != "" {
			b.WriteString(": " + r)
		}
	}
	return oneLine(b.String())
}

// oneLine escapes what would break the line or the terminal: names in the
// message come from the input.
func oneLine(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
