package kube

import (
	"cmp"
	"io"
	"slices"

	"vswitch/vswitch/cluster"
)

// Names reads manifests as Load does, but only for what they call their objects:
// kind, namespace and name. Whatever else is wrong with an object does not matter.
// The names are in the order of kinds that cluster.Objects.Refs has, each once.
func Names(paths []string, stdin io.Reader) ([]cluster.Ref, error) {
	l := newLoader()
	l.namesOnly = true
	for _, p := range paths {
		l.path(p, stdin)
	}
	if _, _, err := l.result(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(l.names, func(a, b cluster.Ref) int { return a.Kind.Compare(b.Kind) })
	return l.names, nil
}

// name notes what an object is called.
func (l *loader) name(m *manifest, kind, object string, tree map[string]any) {
	meta, _ := tree["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	if name == "" {
		l.fail(m.failure(object, "metadata.name", "is not set; an object is deleted by its name"))
		return
	}
	k := cluster.Kind(kind)
	namespace := ""
	if k.Namespaced() {
		given, isString := meta["namespace"].(string)
		if meta["namespace"] != nil && !isString {
			l.fail(m.failure(object, "metadata.namespace", "must be a string"))
			return
		}
		namespace = cmp.Or(given, "default")
	}
	ref := cluster.Ref{Kind: k, Key: cluster.Key{Namespace: namespace, Name: name}}
	if l.first[ref] == "" {
		l.first[ref] = m.source()
		l.names = append(l.names, ref)
	}
}
