package kube

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// problem is something wrong at a path of an object.
type problem struct{ field, message string }

func (p problem) String() string {
	if p.field == "" {
		return p.message
	}
	return p.field + ": " + p.message
}

// schema compares a decoded document with a Go type and collects all that
// does not fit; encoding/json would stop at the first, without its path. What
// does not fit is removed from the document, so that the rest can be decoded
// and checked, too.
type schema struct {
	problems []problem
	// dropped are the fields that were removed, or were probably meant: what
	// is said of them later follows from what was said here.
	dropped []string
}

func (s *schema) bad(path *field.Path, format string, args ...any) {
	s.problems = append(s.problems, problem{path.String(), fmt.Sprintf(format, args...)})
	s.dropped = append(s.dropped, path.String())
}

// covers reports whether a problem of the field follows from one already known.
func (s *schema) covers(path string) bool {
	for _, d := range s.dropped {
		if rest, ok := strings.CutPrefix(path, d); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

var unmarshaler, textUnmarshaler = reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()

// decodesItself reports whether a type knows better than its kind what it takes.
func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(unmarshaler) || p.Implements(textUnmarshaler)
}

// fit checks v against t and returns what of it can be decoded, and whether
// anything can.
func (s *schema) fit(path *field.Path, v any, t reflect.Type) (any, bool) {
	if v == nil {
		return nil, true
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if decodesItself(t) {
		return v, s.fitCustom(path, v, t)
	}
	switch t.Kind() {
	case reflect.Struct:
		m, ok := v.(map[string]any)
		if !ok {
			s.mismatch(path, v, "a mapping")
			return nil, false
		}
		return s.fitStruct(path, m, t), true
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			s.mismatch(path, v, "a mapping")
			return nil, false
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			replaceOrDelete(m, k)(s.fit(path.Key(k), m[k], t.Elem()))
		}
		return m, true
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return v, s.fitCustom(path, v, t)
		}
		list, ok := v.([]any)
		if !ok {
			s.mismatch(path, v, "a list")
			return nil, false
		}
		for i := range list {
			fitting, ok := s.fit(path.Index(i), list[i], t.Elem())
			if !ok {
				fitting = nil // the others keep their places
			}
			list[i] = fitting
		}
		return list, true
	}
	if b, ok := oldBool[fmt.Sprint(v)]; ok && t.Kind() == reflect.Bool {
		return b, true
	}
	return v, s.fitScalar(path, v, t)
}

func replaceOrDelete(m map[string]any, key string) func(v any, ok bool) {
	return func(v any, ok bool) {
		if ok {
			m[key] = v
		} else {
			delete(m, key)
		}
	}
}

func (s *schema) fitStruct(path *field.Path, m map[string]any, t reflect.Type) map[string]any {
	fields := fieldsOf(t)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		ft, ok := fields[k]
		if ok {
			replaceOrDelete(m, k)(s.fit(path.Child(k), m[k], ft))
			continue
		}
		delete(m, k)
		meant := suggest(k, fields)
		if meant == "" {
			s.bad(path.Child(k), "unknown field")
			continue
		}
		s.bad(path.Child(k), "unknown field; did you mean %q?", meant)
		parts := strings.Split(meant, ".")
		s.dropped = append(s.dropped, path.Child(parts[0], parts[1:]...).String())
	}
	return m
}

func (s *schema) fitScalar(path *field.Path, v any, t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String:
		if _, ok := v.(string); ok {
			return true
		}
		hint := ""
		switch v.(type) {
		case bool, json.Number:
			hint = "; write it in quotes"
		}
		s.mismatch(path, v, "a string", hint)
	case reflect.Bool:
		if _, ok := v.(bool); ok {
			return true
		}
		s.mismatch(path, v, "true or false")
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Int8, reflect.Int16:
		n, ok := v.(json.Number)
		if !ok {
			s.mismatch(path, v, "a whole number")
			return false
		}
		if _, err := strconv.ParseInt(n.String(), 10, t.Bits()); err != nil {
			s.bad(path, "%s is not a whole number of %d bits", n, t.Bits())
			return false
		}
		return true
	default:
		return s.fitCustom(path, v, t)
	}
	return false
}

// fitCustom lets a type that decodes itself say what it thinks of v.
func (s *schema) fitCustom(path *field.Path, v any, t reflect.Type) bool {
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(t).Interface())
	}
	if err != nil {
		s.bad(path, "%s is not a valid %s: %s", clip(string(data)), t.Name(), strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	return true
}

func (s *schema) mismatch(path *field.Path, v any, want string, hint ...string) {
	got := "a mapping"
	switch v := v.(type) {
	case []any:
		got = "a list"
	case string:
		got = "the string " + clip(strconv.Quote(v))
	case bool:
		got = fmt.Sprint(v)
	case json.Number:
		got = "the number " + clip(v.String())
	}
	s.bad(path, "must be %s, not %s%s", want, got, strings.Join(hint, ""))
}

func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:57], "") + "..."
	}
	return s
}

// fieldCache holds the JSON fields of struct types, name to type.
var fieldCache sync.Map

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if cached, ok := fieldCache.Load(t); ok {
		return cached.(map[string]reflect.Type)
	}
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && (name == "" || strings.Contains(options, "inline")):
			maps.Copy(fields, fieldsOf(f.Type))
		case f.IsExported() && name != "" && name != "-":
			fields[name] = f.Type
		}
	}
	fieldCache.Store(t, fields)
	return fields
}

// suggest returns the field that was probably meant by name: one that is
// spelled nearly so, or one of that name a level deeper ("spec.containers").
func suggest(name string, fields map[string]reflect.Type) string {
	best, bestDistance := "", max(1, len(name)/3)+1
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		if strings.EqualFold(f, name) {
			return f
		}
		if d := distance(strings.ToLower(name), strings.ToLower(f)); d < bestDistance {
			best, bestDistance = f, d
		}
	}
	if best != "" {
		return best
	}
	for _, f := range []string{"spec", "metadata", "template"} {
		t, ok := fields[f]
		if !ok || t.Kind() != reflect.Struct {
			continue
		}
		if _, ok := fieldsOf(t)[name]; ok {
			return f + "." + name
		}
	}
	return ""
}

// distance is the number of letters to insert, delete, change or swap with
// their neighbour (optimal string alignment) to turn a into b, at most 64
// letters of each.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	var before, above, row [65]int
	for j := range len(b) + 1 {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}
