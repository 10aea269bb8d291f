package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"vswitch/vswitch/cluster"
)

// immutable returns the first field of a pod's specification that differs and
// may not be changed, or "". Kubernetes lets a pod's images, deadline and
// tolerations change, and its labels and annotations.
func immutable(cur, next *cluster.Pod) string {
	if cur.Node != next.Node {
		return "spec.nodeName"
	}
	if len(cur.Manifest) > 0 && len(next.Manifest) > 0 {
		return firstDifference("spec", spec(cur.Manifest), spec(next.Manifest))
	}
	a, b := *cur, *next
	a.Meta, b.Meta = cluster.Meta{}, cluster.Meta{}
	for _, p := range []*cluster.Pod{&a, &b} {
		p.InitContainers, p.Containers = withoutImages(p.InitContainers), withoutImages(p.Containers)
	}
	if reflect.DeepEqual(a, b) {
		return ""
	}
	return "spec"
}

func withoutImages(list []cluster.Container) []cluster.Container {
	list = slices.Clone(list)
	for i := range list {
		list[i].Image = ""
	}
	return list
}

// spec returns the specification in a manifest, without what may change.
func spec(manifest []byte) any {
	var object struct {
		Spec map[string]any `json:"spec"`
	}
	if json.Unmarshal(manifest, &object) != nil {
		return nil
	}
	for _, free := range []string{"activeDeadlineSeconds", "tolerations", "nodeName"} {
		delete(object.Spec, free)
	}
	for _, list := range []string{"containers", "initContainers"} {
		containers, _ := object.Spec[list].([]any)
		for _, c := range containers {
			if c, ok := c.(map[string]any); ok {
				delete(c, "image")
				delete(c, "imagePullPolicy") // follows the image
			}
		}
	}
	return object.Spec
}

// firstDifference returns the path of the first value that differs.
func firstDifference(path string, a, b any) string {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return path
		}
		both := maps.Clone(x)
		maps.Copy(both, y)
		for _, k := range slices.Sorted(maps.Keys(both)) {
			if d := firstDifference(path+"."+k, x[k], y[k]); d != "" {
				return d
			}
		}
		return ""
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return path
		}
		for i := range x {
			if d := firstDifference(fmt.Sprintf("%s[%d]", path, i), x[i], y[i]); d != "" {
				return d
			}
		}
		return ""
	}
	if !reflect.DeepEqual(a, b) {
		return path
	}
	return ""
}
