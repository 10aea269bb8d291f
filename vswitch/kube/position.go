package kube

import (
	"errors"
	"strconv"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
)

// position says where a value of a document is written: its line, counted from
// the document's first one, and those of what it holds.
type position struct {
	line   int
	fields map[string]*position
	items  []*position
}

// probe is a type that no YAML value fits. Decoding into it fails with the
// value's line, which the decoder does not tell in any other way.
type probe chan struct{}

// lineOf asks for the line of the value that unmarshal decodes.
func lineOf(unmarshal func(any) error) int {
	var p probe
	var te *yamlv2.TypeError
	if errors.As(unmarshal(&p), &te) && len(te.Errors) > 0 {
		if found := yamlLine.FindStringSubmatch(te.Errors[0]); found != nil {
			n, _ := strconv.Atoi(found[1])
			return n
		}
	}
	return 0
}

// isTypeError reports whether a value has another type than was asked for.
// Other errors end the decoding.
func isTypeError(err error) bool {
	var te *yamlv2.TypeError
	return errors.As(err, &te)
}

// UnmarshalYAML implements the YAML decoder's interface.
func (p *position) UnmarshalYAML(unmarshal func(any) error) error {
	p.line = lineOf(unmarshal)
	var fields map[placeKey]position
	err := unmarshal(&fields)
	if err == nil {
		p.fields = make(map[string]*position, len(fields))
		for k, v := range fields {
			if old := p.fields[k.name]; old != nil && old.line > k.line {
				continue // k came in by a merge, from an anchor further up
			}
			v.line = k.line // a field is where its key is
			p.fields[k.name] = &v
		}
		return nil
	}
	if !isTypeError(err) {
		return err
	}
	var items []position
	if err = unmarshal(&items); err == nil {
		for i := range items {
			p.items = append(p.items, &items[i])
		}
	} else if !isTypeError(err) {
		return err
	}
	return nil
}

// UnmarshalText implements encoding.TextUnmarshaler for "null" and "~" in
// quotes, with which the decoder does not come to UnmarshalYAML.
func (p *position) UnmarshalText([]byte) error { return nil }

// placeKey is a key and its line.
type placeKey struct {
	name string
	line int
}

// UnmarshalYAML implements the YAML decoder's interface.
func (k *placeKey) UnmarshalYAML(unmarshal func(any) error) error {
	k.line = lineOf(unmarshal)
	_ = unmarshal(&k.name) // a key that is no scalar has no name
	return nil
}

// locate returns the line in the file of the field at path, or of the nearest
// thing around it that is written down.
func (d *document) locate(path string) int {
	if !d.looked {
		d.looked = true
		var root position
		if yamlv2.Unmarshal(d.data, &root) == nil {
			d.places = &root
		}
	}
	p, line := d.places, 1
	for p != nil {
		if p.line > 0 {
			line = p.line
		}
		var key string
		if key, path = step(path); key == "" {
			break
		}
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(p.items) {
			p = p.items[i]
		} else {
			p = p.fields[key]
		}
	}
	return d.line + line - 1
}

// step cuts the first part off a path: "spec", "[0]" or "[app.kubernetes.io/name]".
func step(path string) (key, rest string) {
	path = strings.TrimPrefix(path, ".")
	if inner, ok := strings.CutPrefix(path, "["); ok {
		key, rest, _ = strings.Cut(inner, "]")
		return key, rest
	}
	if i := strings.IndexAny(path, ".["); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}
