package main

import (
	"encoding/json"
	"fmt"

	"sigs.k8s.io/yaml"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
)

// print writes all rows at once.
func (g *getOptions) print(rows []row) error {
	if g.output == "json" || g.output == "yaml" {
		return g.printValues(rows)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintf(g.errOut, "No %s found%s.\n", g.kind.name(), g.where())
		return err
	}
	t := table{header: g.cells(g.kind.header)}
	for _, r := range rows {
		t.add(g.cells(r.cells)...)
	}
	t.print(g.out)
	return nil
}

// cells leaves out the columns that nobody wants to see.
func (g *getOptions) cells(cells []string) []string {
	if g.kind.wide > 0 && g.output != "wide" {
		cells = cells[:g.kind.wide]
	}
	if g.kind.namespaced && !g.all {
		cells = cells[1:]
	}
	return cells
}

func (g *getOptions) printValues(rows []row) error {
	if g.kind.table != nil {
		values := []any{}
		for _, r := range rows {
			values = append(values, r.value)
		}
		return printObject(g.out, values, g.output)
	}
	var data []byte
	var err error
	if len(g.names) == 1 {
		data, err = kube.Encode(rows[0].value, kube.Format(g.output))
	} else {
		nouns := make([]any, len(rows))
		for i, r := range rows {
			nouns[i] = r.value
		}
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
	if g.output == "json" || g.output == "yaml" {
		return func(events []event) error {
			for _, e := range events {
				if err := g.printEvent(e); err != nil {
					return err
				}
			}
			return nil
		}
	}
	t := table{header: append([]string{"EVENT"}, g.cells(g.kind.header)...)}
	return func(events []event) error {
		t.rows = nil
		for _, e := range events {
			t.add(append([]string{e.what}, g.cells(e.row.cells)...)...)
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
	case *cluster.Pod, *cluster.Node, *cluster.Namespace, *cluster.Deployment, *cluster.Service, *cluster.Endpoints, *cluster.EndpointSlice:
		return kube.Encode(value, kube.JSON)
	}
	return json.Marshal(value)
}
