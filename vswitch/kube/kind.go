package kube

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"vswitch/vswitch/cluster"
)

// typeMeta is an object's apiVersion and kind.
type typeMeta struct{ apiVersion, kind string }

// group returns the API group: "" for "v1", "apps" for "apps/v1".
func (t typeMeta) group() string {
	g, _, ok := strings.Cut(t.apiVersion, "/")
	if !ok {
		return ""
	}
	return g
}

// handled are the kinds that become nouns, their version, and what decodes,
// completes and checks an object and records its noun.
var handled = map[cluster.Kind]struct {
	version string
	read    func(l *loader, m *manifest, name string, tree map[string]any)
}{
	cluster.KindNamespace:            {"v1", (*loader).namespace},
	cluster.KindNode:                 {"v1", (*loader).node},
	cluster.KindPod:                  {"v1", (*loader).pod},
	cluster.KindDeployment:           {"apps/v1", (*loader).deployment},
	cluster.KindService:              {"v1", (*loader).service},
	cluster.KindEndpointSlice:        {"discovery.k8s.io/v1", (*loader).endpointSlice},
	cluster.KindEndpoints:            {"v1", (*loader).endpoints},
	cluster.KindNetworkPolicy:        {"networking.k8s.io/v1", (*loader).networkPolicy},
	cluster.KindClusterNetworkPolicy: {clusterPolicyVersion, (*loader).clusterNetworkPolicy},
}

// older are versions that are read as the handled one, whose form they have.
var older = map[typeMeta]bool{
	{"extensions/v1beta1", "NetworkPolicy"}: true,
}

// instead says what has taken the place of a kind, which is not handled.
var instead = map[typeMeta]string{
	{"policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"}:         writeCluster,
	{"policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"}: writeCluster,
}

const writeCluster = "; a ClusterNetworkPolicy (" + clusterPolicyVersion + ") can say the same"

// manifest reads one object, or the items of a List. inherited is the type of
// items that do not say it themselves.
func (l *loader) manifest(m *manifest, tree any, inherited typeMeta) {
	object, ok := tree.(map[string]any)
	if !ok {
		l.fail(m.failure("", "", "is not an object with apiVersion and kind"))
		return
	}
	t, ok := l.typeOf(m, object, inherited)
	if !ok {
		return
	}
	if items, isList := object["items"]; isList && strings.HasSuffix(t.kind, "List") {
		l.list(m, items, t)
		return
	}
	name := nameOf(t.kind, object)
	k, known := handled[cluster.Kind(t.kind)]
	switch {
	case known && l.namesOnly:
		l.name(m, t.kind, name, object)
	case known && (k.version == t.apiVersion || older[t]):
		if older[t] {
			object["apiVersion"] = t.apiVersion // which an item may leave to its list
		}
		k.read(l, m, name, object)
	case known && (t.group() == typeMeta{apiVersion: k.version}.group() || t.group() == "extensions"):
		l.fail(m.failure(name, "apiVersion", fmt.Sprintf("no kind %s in %q; did you mean %q?", t.kind, t.apiVersion, k.version)))
	default:
		l.warn(m, t.kind, name, fmt.Sprintf("kind %s (%s) is not handled; skipped%s", t.kind, t.apiVersion, instead[t]))
	}
}

func (l *loader) warn(m *manifest, kind, object, message string) {
	l.warnings = append(l.warnings, Warning{m.doc.file, m.line(""), m.doc.number, kind, object, message})
}

func (l *loader) typeOf(m *manifest, object map[string]any, inherited typeMeta) (typeMeta, bool) {
	t := inherited
	ok := true
	for _, f := range []struct {
		name string
		to   *string
	}{{"apiVersion", &t.apiVersion}, {"kind", &t.kind}} {
		v, given := object[f.name]
		s, isString := v.(string)
		switch {
		case given && isString && s != "":
			*f.to = s
		case given && v != nil && !isString:
			l.fail(m.failure("", f.name, "must be a string"))
			ok = false
		}
	}
	if !ok {
		return t, false
	}
	switch {
	case t.apiVersion == "" && t.kind == "":
		l.fail(m.failure("", "", "apiVersion and kind are not set; is this a Kubernetes object?"))
	case t.apiVersion == "":
		l.fail(m.failure(nameOf(t.kind, object), "apiVersion", "is not set"))
	case t.kind == "":
		l.fail(m.failure("", "kind", "is not set"))
	default:
		return t, true
	}
	return t, false
}

// list unpacks a List. The items of a PodList need not say that they are Pods.
func (l *loader) list(m *manifest, items any, t typeMeta) {
	if items == nil {
		return
	}
	list, ok := items.([]any)
	if !ok {
		l.fail(m.failure(t.kind, "items", "must be a list"))
		return
	}
	var inherited typeMeta
	if t.kind != "List" {
		inherited = typeMeta{t.apiVersion, strings.TrimSuffix(t.kind, "List")}
	}
	for i, item := range list {
		path := strings.TrimPrefix(fmt.Sprintf("%s.items[%d]", m.path, i), ".")
		if strings.Count(path, "[") > 16 {
			l.fail(m.failure(t.kind, "items", "Lists are nested too deeply"))
			return
		}
		l.manifest(&manifest{m.doc, path}, item, inherited)
	}
}

// nameOf is how messages call an object before it is decoded.
func nameOf(kind string, object map[string]any) string {
	meta, _ := object["metadata"].(map[string]any)
	str := func(k string) string { s, _ := meta[k].(string); return s }
	name := str("name")
	if name == "" {
		if name = str("generateName"); name == "" {
			return kind
		}
		name += "*"
	}
	namespace := str("namespace")
	if k, ok := cluster.ParseKind(kind); namespace == "" && ok && k.Namespaced() {
		namespace = "default"
	}
	return cluster.Ref{Kind: cluster.Kind(kind), Key: cluster.Key{Namespace: namespace, Name: name}}.String()
}

func (l *loader) namespace(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultNamespace, validateNamespace); ok {
		l.record(m, toNamespace(o))
	}
}

func (l *loader) node(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultNode, validateNode); ok {
		l.nodeNoEffect(m, name, o)
		l.record(m, toNode(o))
	}
}

func (l *loader) pod(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultPod, validatePod); ok {
		l.generateName(cluster.KindPod, &o.ObjectMeta, o)
		l.podNoEffect(m, name, "spec", &o.Spec)
		l.record(m, toPod(o))
	}
}

func (l *loader) deployment(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultDeployment, validateDeployment); ok {
		l.generateName(cluster.KindDeployment, &o.ObjectMeta, o)
		l.podNoEffect(m, name, "spec.template.spec", &o.Spec.Template.Spec)
		l.record(m, toDeployment(o))
	}
}

func (l *loader) service(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultService, validateService); ok {
		l.generateName(cluster.KindService, &o.ObjectMeta, o)
		l.serviceNoEffect(m, name, o)
		normalizeService(o)
		l.record(m, toService(o))
	}
}

func (l *loader) endpointSlice(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultEndpointSlice, validateEndpointSlice); ok {
		switch {
		case o.AddressType == discoveryv1.AddressTypeFQDN:
			l.warn(m, string(cluster.KindEndpointSlice), name, "addressType FQDN: it is kept, and services do not use it")
		case o.Labels[cluster.LabelServiceName] == "":
			l.warn(m, string(cluster.KindEndpointSlice), name, "the label "+cluster.LabelServiceName+" is not set: it is kept, and no service uses it")
		}
		l.generateName(cluster.KindEndpointSlice, &o.ObjectMeta, o)
		l.record(m, toEndpointSlice(o))
	}
}

func (l *loader) endpoints(m *manifest, name string, tree map[string]any) {
	if o, ok := decode(l, m, name, tree, defaultEndpoints, validateEndpoints); ok {
		l.generateName(cluster.KindEndpoints, &o.ObjectMeta, o)
		l.record(m, toEndpoints(o))
	}
}

// pattern is what apimachinery says to programmers behind its examples.
var pattern = regexp.MustCompile(`,? *regex used for validation is '[^']*'`)

func readable(message string) string {
	return strings.Replace(pattern.ReplaceAllString(message, ""), " ()", "", 1)
}

// decode makes a T of the tree, with defaults, and reports all that is wrong
// with it. ok is false if anything is.
func decode[T any](l *loader, m *manifest, name string, tree map[string]any, complete func(*T), validate func(*T) field.ErrorList) (*T, bool) {
	o, s := examine(l, m, name, tree, complete, validate)
	return o, len(s.problems) == 0
}

// examine is decode for those who want to know where the problems are.
func examine[T any](l *loader, m *manifest, name string, tree map[string]any, complete func(*T), validate func(*T) field.ErrorList) (*T, *schema) {
	s := &schema{}
	pruned := s.fitStruct(nil, tree, reflect.TypeFor[T]())
	o := new(T)
	data, err := json.Marshal(pruned)
	if err == nil {
		err = json.Unmarshal(data, o)
	}
	if err != nil {
		s.problems = append(s.problems, problem{"", err.Error()})
	} else {
		complete(o)
		for _, e := range validate(o) {
			if !s.covers(e.Field) {
				s.problems = append(s.problems, problem{e.Field, readable(e.ErrorBody())})
			}
		}
	}
	m.sortProblems(s.problems)
	for _, p := range s.problems {
		l.fail(m.failure(name, p.field, p.message))
	}
	return o, s
}
