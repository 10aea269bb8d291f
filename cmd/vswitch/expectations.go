package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"

	"vswitch/vswitch/trace"
)

// expectation is what should become of a packet.
type expectation struct {
	file string
	line int
	// fields are the lines of those that are written down.
	fields map[string]int
	probe  trace.Probe
	expect string
}

// Words of an expectation. Deny is also met by what is rejected.
const (
	expectAllow  = "allow"
	expectDeny   = "deny"
	expectReject = "reject"
)

// fault says what is wrong with a field of the expectation.
func (e *expectation) fault(field, format string, args ...any) error {
	line := e.line
	if n := e.fields[field]; n > 0 {
		line = n
	}
	return entryFault(e.file, line, field, fmt.Sprintf(format, args...))
}

func entryFault(file string, line int, rest ...string) error {
	return errors.New(fmt.Sprintf("%s:%d: ", file, line) + strings.Join(slices.DeleteFunc(rest, func(s string) bool { return s == "" }), ": "))
}

// loadExpectations reads lists of expectations from files, or from in for "-".
// The error has a line for each thing that is wrong with them.
func loadExpectations(files []string, in io.Reader) (all []expectation, err error) {
	var errs []error
	for _, name := range files {
		var data []byte
		var err error
		file := name
		if name == "-" {
			file = "stdin"
			data, err = io.ReadAll(in)
		} else if data, err = os.ReadFile(name); errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%s: no such file", name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list, err := parseExpectations(file, data)
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("%s: no expectations; write a list such as [{from: x/a, to: \"x/b:80\", expect: allow}]", file)
		}
		all, errs = append(all, list...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// parseExpectations reads the lists of a file, one a document. What is wrong
// with an entry does not hide the others.
func parseExpectations(file string, data []byte) (all []expectation, err error) {
	var errs []error
	for d := yamlv2.NewDecoder(bytes.NewReader(data)); ; {
		var list []entry
		err := d.Decode(&list)
		if errors.Is(err, io.EOF) {
			return all, errors.Join(errs...)
		}
		if te := (*yamlv2.TypeError)(nil); errors.As(err, &te) {
			errs = append(errs, entryFault(file, lineIn(te.Errors[0]), "not a list of entries {from, to, proto, expect}"))
		} else if err != nil {
			hint := ""
			if strings.Contains(err.Error(), "did not find") {
				hint = `; write [IP6]:PORT in quotes`
			}
			message := yamlPlace.ReplaceAllString(err.Error(), "")
			return nil, errors.Join(append(errs, entryFault(file, max(1, lineIn(err.Error())), message+hint))...)
		}
		for i := range list {
			found, err := list[i].expectations(file)
			all, errs = append(all, found...), append(errs, err)
		}
	}
}

// yamlLine is how the YAML decoder tells a line, and yamlPlace what stands
// before its message.
var (
	yamlLine  = regexp.MustCompile(`line (\d+)`)
	yamlPlace = regexp.MustCompile(`^yaml: (line \d+: )?`)
)

func lineIn(message string) int {
	if found := yamlLine.FindStringSubmatch(message); found != nil {
		n, _ := strconv.Atoi(found[1])
		return n
	}
	return 1
}

// lineOf asks for the line of the value that unmarshal decodes: no value fits a
// channel, and the error has the line.
func lineOf(unmarshal func(any) error) int {
	var nothing chan struct{}
	var te *yamlv2.TypeError
	if errors.As(unmarshal(&nothing), &te) && len(te.Errors) > 0 {
		return lineIn(te.Errors[0])
	}
	return 0
}

// entry is an entry of a list as it is written.
type entry struct {
	line   int
	fields map[entryKey]any
	wrong  bool // it is no mapping
}

// entryKey is a key as it is written; two of one name are two.
type entryKey struct {
	name string
	line int
	once *byte // another one for each
}

// UnmarshalYAML implements the YAML decoder's interface.
func (e *entry) UnmarshalYAML(unmarshal func(any) error) error {
	e.line = lineOf(unmarshal)
	err := unmarshal(&e.fields)
	if te := (*yamlv2.TypeError)(nil); errors.As(err, &te) {
		e.wrong = true
		return nil
	}
	return err
}

// UnmarshalYAML implements the YAML decoder's interface.
func (k *entryKey) UnmarshalYAML(unmarshal func(any) error) error {
	k.line, k.once = lineOf(unmarshal), new(byte)
	return unmarshal(&k.name)
}

// expectations are those of an entry: one for each sender and each receiver.
func (e *entry) expectations(file string) (all []expectation, err error) {
	x := expectation{file: file, line: max(1, e.line), fields: map[string]int{}}
	if e.wrong || len(e.fields) == 0 {
		return nil, x.fault("", "not an entry such as {from: x/a, to: \"x/b:80\", expect: allow}")
	}
	var errs []error
	words := map[string][]string{}
	keys := slices.SortedFunc(maps.Keys(e.fields), func(a, b entryKey) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.name, b.name)) })
	for _, k := range keys {
		v := e.fields[k]
		if x.fields[k.name] > 0 {
			errs = append(errs, entryFault(file, k.line, k.name, "given twice"))
			continue
		}
		x.fields[k.name] = k.line
		list, ok := wordsOf(v)
		switch several := k.name == "from" || k.name == "to"; {
		case !several && !slices.Contains([]string{"proto", "expect", "at"}, k.name):
			errs = append(errs, x.fault(k.name, "unknown field; use from, to, proto, expect and at"))
		case !ok || !several && len(list) != 1:
			errs = append(errs, x.fault(k.name, "%v is not a string%s", v, map[bool]string{true: ", or a list of some"}[several]))
		default:
			words[k.name] = list
		}
	}
	for _, name := range []string{"from", "to", "expect"} {
		if x.fields[name] == 0 {
			errs = append(errs, x.fault(name, "missing"))
		}
	}
	first := func(name string) string { return strings.Join(words[name], "") }
	x.expect, x.probe.Proto, x.probe.At = first("expect"), strings.ToLower(first("proto")), first("at")
	if len(words["expect"]) > 0 && !slices.Contains([]string{expectAllow, expectDeny, expectReject}, x.expect) {
		errs = append(errs, x.fault("expect", "%q: use allow, deny or reject", x.expect))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, x.probe.From = range words["from"] {
		for _, x.probe.To = range words["to"] {
			all = append(all, x)
		}
	}
	return all, nil
}

// wordsOf are the strings that a value is or lists; not ok if it is anything else.
func wordsOf(v any) (words []string, ok bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, v != ""
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok || s == "" {
				return nil, false
			}
			words = append(words, s)
		}
		return words, len(words) > 0
	}
	return nil, false
}
