package kube

import (
	"strings"
	"testing"
)

// TestLocate reads documents that say themselves, in comments, which path each
// line holds.
func TestLocate(t *testing.T) {
	for _, text := range []string{
		`apiVersion: v1            #@ apiVersion
metadata:                     #@ metadata | metadata.missing | metadata.missing.deep[3]
  labels:                     #@ metadata.labels
    app.kubernetes.io/name: a #@ metadata.labels[app.kubernetes.io/name]
    "quoted key": b           #@ metadata.labels[quoted key]
    7: c                      #@ metadata.labels[7]
    nothing:                  #@ metadata.labels[nothing]
spec:                         #@ spec
  text: |                     #@ spec.text
    containers:
    - name: not a field
  folded: >-                  #@ spec.folded
    a
    b
  containers:                 #@ spec.containers | spec.containers[9]
  - name: a                   #@ spec.containers[0] | spec.containers[0].name | spec.containers[0].missing
    args: ["x", #@ spec.containers[0].args | spec.containers[0].args[0]
       "y",     #@ spec.containers[0].args[1]
       {deep: [1, #@ spec.containers[0].args[2].deep | spec.containers[0].args[2].deep[0]
         2]}]     #@ spec.containers[0].args[2].deep[1]
  -                           
    name: b                   #@ spec.containers[1].name
  -   - 1                     #@ spec.containers[2][0]
      - null                  
      - 3                     #@ spec.containers[2][2]
`,
		`base: &base                  #@ base
  x: 1                        #@ base.x
copy:                         #@ copy
  <<: *base
  y: 2                        #@ copy.y
alias: *base                  #@ alias
list:
- 1                           #@ list[0]
`,
		`{"a": 1,      #@ a
  "b": [       #@ b
    {"c": 2},  #@ b[0].c
    "d"        #@ b[1]
  ]}
`,
	} {
		// Two documents stand before, so that lines are counted from the file.
		d := split("f", []byte("# first\n---\na: 1\n---\n\n# comment\n"+text))[1]
		for i, line := range strings.Split(text, "\n") {
			_, paths, ok := strings.Cut(line, "#@")
			if !ok {
				continue
			}
			for path := range strings.SplitSeq(paths, "|") {
				path = strings.TrimSpace(path)
				if got, want := d.locate(path), 6+i+1; got != want {
					t.Errorf("%s: line %d, want %d (%s)", path, got, want, strings.TrimSpace(line))
				}
			}
		}
	}
}

func TestSplit(t *testing.T) {
	type doc struct {
		line int
		text string
	}
	for _, tt := range []struct {
		name, in string
		want     []doc
	}{
		{"empty", "", nil},
		{"comments", "# a\n---\n# b\n--- # c\n...\n", nil},
		{"one", "a: 1", []doc{{1, "a: 1"}}},
		{"byte order mark", "\ufeffa: 1\n", []doc{{1, "a: 1\n"}}},
		{"two", "a: 1\n---\nb: 2\n", []doc{{1, "a: 1\n"}, {3, "b: 2\n"}}},
		{"windows", "a: 1\r\n---\r\n\r\nb: 2\r\n", []doc{{1, "a: 1\r\n"}, {4, "b: 2\r\n"}}},
		{"directive", "%YAML 1.1\n---\na: 1\n", []doc{{3, "a: 1\n"}}},
		{"end marker", "a: 1\n...\n# x\nb: 2\n", []doc{{1, "a: 1\n"}, {4, "b: 2\n"}}},
		{"content behind the marker", "--- {a: 1}\n--- b\n", []doc{{1, "--- {a: 1}\n"}, {2, "--- b\n"}}},
		{"no marker", "a: |\n  ---\n  ---x\n", []doc{{1, "a: |\n  ---\n  ---x\n"}}},
		{"json stream", "{\"a\": 1}\n{\"b\":\n2} {\"c\": 3}\n", []doc{{1, `{"a": 1}`}, {2, "{\"b\":\n2}"}, {3, `{"c": 3}`}}},
		{"flow mapping", "{a: 1}\n", []doc{{1, "{a: 1}\n"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docs := split("f", []byte(tt.in))
			if len(docs) != len(tt.want) {
				t.Fatalf("%d documents, want %d", len(docs), len(tt.want))
			}
			for i, d := range docs {
				if d.line != tt.want[i].line || string(d.data) != tt.want[i].text {
					t.Errorf("document %d: line %d %q, want %+v", i, d.line, d.data, tt.want[i])
				}
			}
		})
	}
}

func TestSuggest(t *testing.T) {
	fields := fieldsOf(podType)
	spec := fieldsOf(specType)
	for name, want := range map[string]string{
		"comand": "", "hostNetwrok": "hostNetwork", "nodename": "nodeName", "Containers": "containers",
		"restartpolicy": "restartPolicy", "xyzzy": "", "a": "", "container": "containers",
	} {
		if got := suggest(name, spec); got != want {
			t.Errorf("suggest(%q) = %q, want %q", name, got, want)
		}
	}
	if got := suggest("containers", fields); got != "spec.containers" {
		t.Errorf("a field at the wrong level: %q", got)
	}
	if got := suggest("labels", fields); got != "metadata.labels" {
		t.Errorf("a field at the wrong level: %q", got)
	}
}
