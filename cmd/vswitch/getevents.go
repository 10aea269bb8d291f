package main

import (
	"strconv"
	"strings"

	"vswitch/vswitch/cluster"
)

var eventsHeader = []string{"NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "SUBOBJECT", "SOURCE", "MESSAGE", "FIRST SEEN", "COUNT", "NAME"}

// eventRows shows events as kubectl does (printEvent in
// pkg/printers/internalversion), those that were seen last at the end.
func eventRows(events []*cluster.Event) (rows []row) {
	for _, e := range events {
		source := "vswitch"
		if e.Node != "" {
			source += ", " + e.Node
		}
		rows = append(rows, objectRow(&e.Meta, e.Node, e, e, e.Namespace, since(e.Last), e.Type(), e.Reason,
			strings.ToLower(string(e.Object.Kind))+"/"+e.Object.Name, e.Part, source, strings.TrimSpace(e.Message),
			since(e.First), strconv.Itoa(e.Count), e.Name))
	}
	return rows
}
