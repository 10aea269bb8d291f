package kube

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// DecodeConfig reads a file of one YAML or JSON document into v, a pointer to a
// struct, over what its fields are. It is as strict as with manifests, and its
// error joins an *Error for each thing that is wrong. place returns where a
// field is, "node.yaml:7", for those who find more to say about it.
func DecodeConfig(file string, data []byte, v any) (place func(field string) string, err error) {
	d := &document{file: file, line: 1}
	place = func(field string) string { return fmt.Sprintf("%s:%d", file, d.locate(field)) }
	docs := split(file, data)
	if len(docs) > 1 {
		return place, docs[1].failure(docs[1].line, "", "", "is a second document; a configuration has one")
	}
	if len(docs) == 0 {
		return place, nil // all fields stay as they are
	}
	d = docs[0]
	tree, errs := d.tree()
	if errs != nil {
		return place, join(errs)
	}
	fields, ok := tree.(map[string]any)
	if !ok {
		return place, d.failure(d.line, "", "", "must be a mapping of fields to values")
	}
	var s schema
	fitting := s.fitStruct(nil, fields, reflect.TypeOf(v).Elem())
	for _, p := range s.problems {
		errs = append(errs, d.failure(d.locate(p.field), "", p.field, p.message))
	}
	if errs != nil {
		slices.SortStableFunc(errs, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
		return place, join(errs)
	}
	text, err := json.Marshal(fitting)
	if err != nil {
		return place, err
	}
	return place, json.Unmarshal(text, v)
}

func join(list []*Error) error {
	errs := make([]error, len(list))
	for i, e := range list {
		errs[i] = e
	}
	return errors.Join(errs...)
}
