package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// table prints rows in aligned columns, as kubectl does.
type table struct {
	header []string
	rows   [][]string
	widths []int // so far, of each column; empty while the header is to be printed
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print writes the rows, below the header if it was not written before. Empty
// cells become "<none>".
func (t *table) print(w io.Writer) {
	all := t.rows
	if t.widths == nil {
		all = append([][]string{t.header}, t.rows...)
		t.widths = make([]int, len(t.header))
	}
	for _, row := range all {
		for i := range row {
			if row[i] == "" {
				row[i] = "<none>"
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+3))
			}
		}
		fmt.Fprintln(w, line.String())
	}
}

// printObject writes v as JSON or YAML.
func printObject(w io.Writer, v any, format string) error {
	data, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	if format == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
	} else {
		data = append(data, '\n')
	}
	_, err = w.Write(data)
	return err
}

// age writes a duration as kubectl does: 45s, 3m10s, 5h, 2d.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 10*time.Minute:
		if s := int(d.Seconds()) % 60; s != 0 {
			return fmt.Sprintf("%dm%ds", int(d.Minutes()), s)
		}
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// size writes a number of bytes with a binary unit.
func size(n uint64) string {
	units := "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, u := float64(n)/1024, 0
	for f >= 1024 && u < len(units)-1 {
		f /= 1024
		u++
	}
	return fmt.Sprintf("%.1f%ciB", f, units[u])
}

// list joins things with commas.
func list[T fmt.Stringer](things []T) string {
	var s []string
	for _, t := range things {
		s = append(s, t.String())
	}
	return strings.Join(s, ",")
}
