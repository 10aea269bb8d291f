package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
)

// document is one YAML or JSON document of a file.
type document struct {
	file   string
	number int // from 1; 0 where the file has only one
	line   int // where data begins in the file, from 1
	data   []byte
	places *position // where its fields are; made by locate
	looked bool
}

// split cuts a file into documents. Documents that hold nothing but comments
// are left out, and are not counted.
func split(file string, data []byte) []*document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var docs []*document
	begin, first := 0, 1
	cut := func(end, line int) {
		docs = append(docs, splitJSON(&document{file: file, line: first, data: data[begin:end]})...)
		begin, first = end, line
	}
	for at, line := 0, 1; at < len(data); line++ {
		next := len(data)
		if n := bytes.IndexByte(data[at:], '\n'); n >= 0 {
			next = at + n + 1
		}
		text := data[at:next]
		if isMarker(text, "---") {
			cut(at, line) // the marker opens the next document
		} else if isMarker(text, "...") {
			// The marker ends this one. It is left out: the decoder would
			// read on behind it.
			cut(at, line)
			begin, first = next, line+1
		}
		at = next
	}
	cut(len(data), 0)
	if len(docs) > 1 {
		for i, d := range docs {
			d.number = i + 1
		}
	}
	return docs
}

func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// splitJSON moves d's line to its first content and returns it, or nothing if
// it has none. JSON objects that follow each other are documents of their own.
func splitJSON(d *document) []*document {
	for at, line := 0, d.line; at < len(d.data); line++ {
		next := len(d.data)
		if n := bytes.IndexByte(d.data[at:], '\n'); n >= 0 {
			next = at + n + 1
		}
		text := bytes.TrimSpace(d.data[at:next])
		if len(text) == 0 || text[0] == '#' || text[0] == '%' || isMarker(text, "---") && len(bytes.TrimSpace(bytes.SplitN(text[3:], []byte("#"), 2)[0])) == 0 {
			at = next
			continue
		}
		d.line, d.data = line, d.data[at:]
		if text[0] != '{' {
			return []*document{d}
		}
		return jsonStream(d)
	}
	return nil
}

// jsonStream returns the JSON objects of d, or d alone if it is not JSON: YAML
// may begin with a brace, too.
func jsonStream(d *document) []*document {
	var docs []*document
	dec := json.NewDecoder(bytes.NewReader(d.data))
	for end := int64(0); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			return []*document{d}
		}
		start := end + int64(bytes.Index(d.data[end:], raw[:1]))
		line := d.line + bytes.Count(d.data[:start], []byte("\n"))
		end = dec.InputOffset()
		docs = append(docs, &document{file: d.file, line: line, data: raw})
	}
}

func (d *document) failure(line int, object, field, message string) *Error {
	return &Error{d.file, line, d.number, object, field, message}
}

// yamlLine is how the YAML parser begins a message. Its lines count from the
// start of the document.
var yamlLine = regexp.MustCompile(`^line (\d+): `)

// tree decodes the document: maps, slices, strings, bools, json.Numbers, nil.
func (d *document) tree() (any, []*Error) {
	if !json.Valid(d.data) {
		var v value
		if err := yamlv2.UnmarshalStrict(d.data, &v); err != nil {
			return nil, d.syntax(err)
		}
		return v.v, nil
	}
	if errs := d.duplicates(); errs != nil {
		return nil, errs
	}
	dec := json.NewDecoder(bytes.NewReader(d.data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, d.syntax(err)
	}
	return v, nil
}

// duplicates finds keys that are given twice in JSON, which Go's decoder
// overlooks.
func (d *document) duplicates() []*Error {
	var v any
	var te *yamlv2.TypeError
	if errors.As(yamlv2.UnmarshalStrict(d.data, &v), &te) {
		return d.syntax(te)
	}
	return nil // other errors are JSON that is not YAML, like \ud83d\ude00
}

// alreadySet ends what the YAML parser says of a key that is given twice.
const alreadySet = " already set in map"

// syntax turns the parser's error into one Error per complaint.
func (d *document) syntax(err error) []*Error {
	var te *yamlv2.TypeError
	messages := []string{err.Error()}
	if errors.As(err, &te) {
		messages = te.Errors
	}
	var errs []*Error
	for _, m := range messages {
		m = strings.TrimPrefix(m, "yaml: ")
		line := d.line
		if found := yamlLine.FindStringSubmatch(m); found != nil {
			n, _ := strconv.Atoi(found[1])
			line = max(d.line, d.line+n-1)
			m = m[len(found[0]):]
		}
		if key, twice := strings.CutSuffix(m, alreadySet); twice {
			m = fmt.Sprintf("%s is given twice; remove one of the two", key)
		}
		errs = append(errs, d.failure(line, "", "", m))
	}
	return errs
}
