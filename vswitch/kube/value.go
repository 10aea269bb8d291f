package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	yamlv2 "go.yaml.in/yaml/v2"
)

// value is any YAML value, as JSON would have it: maps with string keys,
// slices, strings, bools, json.Numbers, nil.
//
// It differs from what kubectl reads (sigs.k8s.io/yaml) in one point: a plain
// y or n, in YAML 1.1 a bool, is a string, as a key and as a value. People and
// most programs that write YAML mean the letter ("namespace: y").
type value struct{ v any }

// oldBool are the words that stay strings until a bool is asked for.
var oldBool = map[string]bool{"y": true, "Y": true, "n": false, "N": false}

// UnmarshalYAML implements the YAML decoder's interface.
func (v *value) UnmarshalYAML(unmarshal func(any) error) error {
	var fields map[string]value
	err := unmarshal(&fields)
	if err == nil {
		m := make(map[string]any, len(fields))
		for k, f := range fields {
			m[valid(k)] = f.v
		}
		v.v = m
		return nil
	}
	if !otherType(err) {
		return err
	}
	var items []value
	if err = unmarshal(&items); err == nil {
		list := make([]any, len(items))
		for i, f := range items {
			list[i] = f.v
		}
		v.v = list
		return nil
	}
	if !otherType(err) {
		return err
	}
	return v.scalar(unmarshal)
}

// UnmarshalText implements encoding.TextUnmarshaler for "null" and "~" in
// quotes, with which the decoder does not come to UnmarshalYAML.
func (v *value) UnmarshalText(text []byte) error {
	v.v = valid(string(text))
	return nil
}

// valid replaces what is not UTF-8, as JSON does; !!binary may hold anything.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// otherType reports whether the value is of another type than was asked for.
// If it is of that type, but holds keys that are given twice, it is not.
func otherType(err error) bool {
	var te *yamlv2.TypeError
	if !errors.As(err, &te) {
		return false
	}
	for _, m := range te.Errors {
		if !strings.HasSuffix(m, alreadySet) {
			return true
		}
	}
	return false
}

func (v *value) scalar(unmarshal func(any) error) error {
	var x any
	if err := unmarshal(&x); err != nil {
		return err
	}
	switch x := x.(type) {
	case bool:
		var text string
		if err := unmarshal(&text); err != nil {
			return err
		}
		if _, letter := oldBool[text]; letter {
			v.v = text
		} else {
			v.v = x
		}
	case string:
		v.v = valid(x)
	case int, int64, uint64:
		v.v = json.Number(fmt.Sprint(x))
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			v.v = fmt.Sprint(x)
		} else {
			v.v = json.Number(strconv.FormatFloat(x, 'g', -1, 64))
			if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
				v.v = json.Number(strconv.FormatFloat(x, 'f', -1, 64))
			}
		}
	case nil:
	default:
		line := lineOf(unmarshal)
		return &yamlv2.TypeError{Errors: []string{fmt.Sprintf("line %d: a key must be text", line)}}
	}
	return nil
}
