package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
)

// print writes all rows at once.
func (g *getOptions) print(lists []listing) error {
	switch {
	case g.values():
		return g.printValues(lists)
	case g.output == "name":
		return g.printNames(lists)
	}
	printed := 0
	for _, l := range lists {
		if len(l.rows) == 0 {
			continue
		}
		if printed++; printed > 1 {
			fmt.Fprintln(g.out)
		}
		t := table{header: g.cells(l.kind, l.kind.header)}
		for _, r := range l.rows {
			if len(lists) > 1 && r.meta != nil {
				r = withKind(l.kind, r)
			}
			t.add(g.cells(l.kind, r.cells)...)
		}
		t.print(g.out)
	}
	if printed > 0 {
		return nil
	}
	var names []string
	for _, l := range lists {
		names = append(names, l.kind.name())
	}
	_, err := fmt.Fprintf(g.errOut, "No %s found%s.\n", strings.Join(names, " or "), g.where(lists[0].kind))
	return err
}

// printNames writes only which objects there are.
func (g *getOptions) printNames(lists []listing) error {
	for _, l := range lists {
		for _, r := range l.rows {
			if _, err := fmt.Fprintln(g.out, nameOf(l.kind, &r)); err != nil {
				return err
			}
		}
	}
	return nil
}

// nameOf is an object's kind and name, as kubectl has it: deployment.apps/web.
func nameOf(k *getKind, r *row) string {
	resource := k.resource()
	if o, ok := r.value.(cluster.Object); ok {
		resource = o.Kind().Resource()
	}
	return resource + "/" + r.meta.Name
}

// withKind returns the row with its kind before the name. Rows of events have none.
func withKind(k *getKind, r row) row {
	if k.events != nil {
		return r
	}
	i := 0
	if k.namespaced {
		i = 1
	}
	r.cells = slices.Clone(r.cells)
	r.cells[i] = nameOf(k, &r)
	return r
}

// cells leaves out the columns that nobody wants to see.
func (g *getOptions) cells(k *getKind, cells []string) []string {
	if k.wide > 0 && g.output != "wide" {
		all := cells
		cells = nil
		for i, cell := range all[:k.wide] {
			if !slices.Contains(k.onlyWide, i) {
				cells = append(cells, cell)
			}
		}
	}
	if k.namespaced && !g.all {
		cells = cells[1:]
	}
	return cells
}

// printValues writes one object that was named as it is, and others as a list.
func (g *getOptions) printValues(lists []listing) error {
	if lists[0].kind.table != nil { // check has seen that it is alone
		values := []any{}
		for _, r := range lists[0].rows {
			values = append(values, r.value)
		}
		return printObject(g.out, values, g.output)
	}
	var nouns []any
	for _, l := range lists {
		for _, r := range l.rows {
			nouns = append(nouns, r.value)
		}
	}
	var data []byte
	var err error
	if len(g.names) == 1 && len(lists) == 1 && len(nouns) == 1 {
		data, err = kube.Encode(nouns[0], kube.Format(g.output))
	} else {
		data, err = kube.EncodeList(nouns, kube.Format(g.output))
	}
	if err != nil {
		return err
	}
	_, err = g.out.Write(data)
	return err
}

// watcher returns what prints events.
func (g *getOptions) watcher() func([]event) error {
	if g.values() {
		return func(events []event) error {
			for _, e := range events {
				if err := g.printEvent(e); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if g.output == "name" {
		return func(events []event) error {
			for _, e := range events {
				if _, err := fmt.Fprintln(g.out, nameOf(g.kinds[0], &e.row)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	// As wide as MODIFIED, which comes later.
	t := table{header: append([]string{"EVENT   "}, g.cells(g.kinds[0], g.kinds[0].header)...)}
	return func(events []event) error {
		if len(events) == 0 { // the header comes with the first row, as wide as that
			return nil
		}
		t.rows = nil
		for _, e := range events {
			t.add(append([]string{e.what}, g.cells(g.kinds[0], e.row.cells)...)...)
		}
		t.print(g.out)
		return nil
	}
}

// printEvent writes an event in the form of a Kubernetes watch.
func (g *getOptions) printEvent(e event) error {
	object, err := valueJSON(e.row.value)
	if err != nil {
		return err
	}
	data, err := json.Marshal(struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}{e.what, object})
	if err != nil {
		return err
	}
	if g.output == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
		_, err = fmt.Fprintf(g.out, "---\n%s", data)
		return err
	}
	_, err = fmt.Fprintf(g.out, "%s\n", data)
	return err
}

// valueJSON is an object in Kubernetes form, or an entry of a table as it is.
func valueJSON(value any) ([]byte, error) {
	switch value.(type) {
	case cluster.Object, *cluster.Event:
		return kube.Encode(value, kube.JSON)
	}
	return json.Marshal(value)
}
