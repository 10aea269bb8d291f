package control

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"vswitch/vswitch/cluster"
)

// Result is what became of one object.
type Result struct {
	cluster.Ref
	// Action is "created", "configured", "unchanged", "replaced" or "deleted";
	// of Isolate "isolated" or "kept".
	Action string `json:"action"`
	// Lacks is what could not be done as the object asks, a sentence each that
	// names it and where it was read.
	Lacks []string `json:"lacks,omitempty"`
}

// String returns the line that kubectl would print: "pod/web-1 created".
func (r Result) String() string {
	return fmt.Sprintf("%s/%s %s", r.Kind.Resource(), r.Name, r.Action)
}

// ApplyOptions change what Apply does.
type ApplyOptions struct {
	// Replace ends a pod that cannot be changed as asked and starts another in
	// its place (kubectl replace --force); else that is an error.
	Replace bool
	// Prune deletes all other objects that came from manifests.
	Prune bool
}

// Apply makes objects the desired ones, as kubectl apply does: what is not
// there is created, what differs is changed. Status is not taken over. Either
// all of it happens or, with an error that joins all reasons, nothing.
func (c *Controller) Apply(o *cluster.Objects, opts ApplyOptions) ([]Result, error) {
	var results []Result
	err := c.update(func(s *step) error {
		a := &applying{step: s, opts: opts}
		a.all(o)
		s.index.begin()
		results = a.results
		return errors.Join(a.errs...)
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied = true
	state := c.store.State()
	for i := range results {
		if r := &results[i]; r.Kind == cluster.KindService {
			r.lacking(state.Service(r.Key))
		}
	}
	return results, nil
}

// lacking notes what a service, which may be gone again, lacks.
func (r *Result) lacking(v *cluster.Service) {
	if v == nil {
		return
	}
	for _, text := range v.Lacks() {
		r.Lacks = append(r.Lacks, sourced(&v.Meta, r.Ref.String()+": "+text))
	}
}

// sourced puts the place where an object was read before what is said of it.
func sourced(m *cluster.Meta, text string) string {
	if m.Source == "" {
		return text
	}
	return m.Source + ": " + text
}

type applying struct {
	*step
	opts    ApplyOptions
	results []Result
	errs    []error
}

func (a *applying) all(o *cluster.Objects) {
	if a.opts.Prune {
		a.prune(o)
	}
	for v := range o.All() {
		a.object(v)
	}
	a.defaultNodes()
	a.checkNodes(o)
}

// object applies one object.
func (a *applying) object(in cluster.Object) {
	cur := a.tx.Own().Get(cluster.RefOf(in))
	if derived(cur) { // it gives way to what somebody writes
		cur = nil
	}
	if a.leaving(in, cur) {
		return
	}
	v, f := a.complete(in, cur)
	action := "created"
	switch {
	case f != nil || cur == nil:
	case same(v, cur):
		a.done(v, "unchanged")
		return
	default:
		action = "configured"
		f = unchangeable(v, cur)
		if f != nil && a.opts.Replace && v.Kind() == cluster.KindPod {
			action, cur = "replaced", nil
			v, f = a.complete(in, nil)
		}
	}
	if f != nil {
		a.refuse(v, f)
		return
	}
	if cur == nil {
		a.create(v.Metadata())
	} else {
		v.Metadata().Generation++
	}
	a.put(v)
	a.done(v, action)
}

// complete returns a copy of an object as it is to be: without what is seen, not
// wished, and with what it does not say as cur has it, its predecessor, if there
// is one. Kinds that are not named here are taken as they are.
func (a *applying) complete(in, cur cluster.Object) (v cluster.Object, f *fault) {
	v = cluster.Clone(in)
	if cur != nil {
		take(v.Metadata(), cur.Metadata())
	}
	switch v := v.(type) {
	case *cluster.Node:
		cur, _ := cur.(*cluster.Node)
		f = a.completeNode(v, cur)
	case *cluster.Deployment:
		cur, _ := cur.(*cluster.Deployment)
		completeDeployment(v, cur)
	case *cluster.Pod:
		cur, _ := cur.(*cluster.Pod)
		a.completePod(v, cur)
	case *cluster.Service:
		cur, _ := cur.(*cluster.Service)
		f = a.completeService(v, cur)
	case *cluster.EndpointSlice:
		v.Labels = written(v.Labels)
	}
	return v, f
}

// unchangeable returns what differs between an object and cur, its predecessor,
// and may not.
func unchangeable(v, cur cluster.Object) *fault {
	switch cur := cur.(type) {
	case *cluster.Node:
		return unchangeableNode(v.(*cluster.Node), cur)
	case *cluster.Deployment:
		if !reflect.DeepEqual(v.(*cluster.Deployment).Selector, cur.Selector) {
			return faultf("spec.selector", "cannot be changed; delete the Deployment first")
		}
	case *cluster.Pod:
		if cur.NodeServes != "" {
			return nil // it is made anew from its node's name
		}
		if field := immutable(cur, v.(*cluster.Pod)); field != "" {
			return faultf(field, "cannot be changed in a pod that exists; delete the pod first")
		}
	case *cluster.EndpointSlice:
		if v.(*cluster.EndpointSlice).Family != cur.Family {
			return faultf("addressType", "cannot be changed from %s; delete the EndpointSlice first", cur.Family)
		}
	}
	return nil
}

func (a *applying) done(o cluster.Object, action string) {
	a.results = append(a.results, Result{Ref: cluster.RefOf(o), Action: action})
}

// refuse notes that an object cannot be applied.
func (a *applying) refuse(o cluster.Object, f *fault) { a.errs = append(a.errs, refusal(o, f)) }

// refusal is an ErrConflict. Its message begins with where the object was read.
func refusal(o cluster.Object, f *fault) error {
	text := sourced(o.Metadata(), cluster.RefOf(o).String()+": ")
	if f.field != "" {
		text += f.field + ": "
	}
	return &conflictError{text + f.message}
}

// conflictError is an ErrConflict whose message needs no prefix.
type conflictError struct{ text string }

func (e *conflictError) Error() string        { return e.text }
func (e *conflictError) Is(target error) bool { return target == ErrConflict }

// leaving refuses objects of a name or namespace that is being deleted.
func (a *applying) leaving(o, cur cluster.Object) bool {
	if ns := o.Key().Namespace; ns != "" {
		if n := a.tx.Own().Namespace(ns); n != nil && !n.Deleted.IsZero() {
			a.refuse(o, faultf("metadata.namespace", "namespace %s is being deleted; apply again when it is gone", ns))
			return true
		}
	}
	if cur != nil && !cur.Metadata().Deleted.IsZero() {
		a.refuse(o, faultf("", "the one of this name is being deleted; apply again when it is gone"))
		return true
	}
	return false
}

// take gives an object what its predecessor has and nobody else decides.
func take(m, cur *cluster.Meta) {
	m.UID, m.Created, m.Generation, m.ResourceVersion = cur.UID, cur.Created, cur.Generation, cur.ResourceVersion
	m.Deleted = cur.Deleted
}

// same compares two objects but for where they were read.
func same(a, b cluster.Object) bool { return equalBut(a, b, func(m *cluster.Meta) { m.Source = "" }) }

// equalBut compares two objects but for what clear clears.
func equalBut(a, b cluster.Object, clear func(*cluster.Meta)) bool {
	a, b = cluster.Clone(a), cluster.Clone(b)
	clear(a.Metadata())
	clear(b.Metadata())
	return reflect.DeepEqual(a, b)
}

func (a *applying) completeNode(n, cur *cluster.Node) *fault {
	n.Ready, n.Reason = false, "" // it is seen, not wished
	if n.Labels[hostnameLabel] == "" {
		labels := map[string]string{hostnameLabel: n.Name}
		for k, v := range n.Labels {
			labels[k] = v
		}
		n.Labels = labels
	}
	for i, p := range n.PodCIDRs {
		if !slices.ContainsFunc(a.cfg.ClusterCIDRs, func(c netip.Prefix) bool { return c.Bits() <= p.Bits() && c.Contains(p.Addr()) }) {
			return faultf(fmt.Sprintf("spec.podCIDRs[%d]", i),
				"%s lies outside the cluster's %s; choose another, or give the cluster a larger range (--cluster-cidr)", p, join(a.cfg.ClusterCIDRs))
		}
	}
	if cur == nil {
		return nil
	}
	if len(n.PodCIDRs) == 0 {
		n.PodCIDRs = cur.PodCIDRs
	}
	if len(n.Addresses) == 0 {
		n.Addresses, n.ExtraAddresses = cur.Addresses, cur.ExtraAddresses
	}
	return nil
}

func unchangeableNode(n, cur *cluster.Node) *fault {
	if !slices.Equal(n.PodCIDRs, cur.PodCIDRs) {
		return faultf("spec.podCIDRs", "cannot be changed from %s; delete the node first", join(cur.PodCIDRs))
	}
	if !slices.Equal(n.Addresses, cur.Addresses) {
		return faultf("status.addresses", "cannot be changed from %s; delete the node first", join(cur.Addresses))
	}
	return nil
}

func join[T fmt.Stringer](list []T) (text string) {
	for i, v := range list {
		if i > 0 {
			text += ","
		}
		text += v.String()
	}
	return text
}

func completeDeployment(d, cur *cluster.Deployment) {
	d.Serial, d.CurrentReplicas, d.UpdatedReplicas, d.ReadyReplicas, d.AvailableReplicas = 0, 0, 0, 0, 0
	clearStatus(&d.Template)
	if cur == nil {
		return
	}
	d.Serial, d.CurrentReplicas, d.UpdatedReplicas = cur.Serial, cur.CurrentReplicas, cur.UpdatedReplicas
	d.ReadyReplicas, d.AvailableReplicas = cur.ReadyReplicas, cur.AvailableReplicas
	if d.Paused {
		// The template that is rolled out stays until the manifest that ends
		// the pause brings the one that is to be.
		d.Template = cur.Template
	}
}

func (a *applying) completePod(p, cur *cluster.Pod) {
	clearStatus(p)
	if p.Owner.Name != "" {
		// A replica that was exported from somewhere is one here only if its
		// Deployment is here, too.
		if d := a.tx.Own().Deployment(p.Owner); d != nil {
			p.OwnerUID = d.UID
		} else {
			p.Owner, p.OwnerUID = cluster.Key{}, ""
		}
	}
	if cur != nil {
		if p.Node == "" {
			p.Node = cur.Node
		}
		p.Reason = cur.Reason
	}
	if a.cfg.DNS && p.Node != "" && p.Key() == nameServerOf(p.Node) {
		// It came back from a cluster, this one perhaps, and is what it was there.
		*p = *nameServer(p.Meta, p.Node)
	}
}

// defaultNodes makes node1 to nodeN unless somebody applied nodes. It does so
// once: a node that is deleted later is not to come back.
func (a *applying) defaultNodes() {
	if a.applied {
		return
	}
	for n := range a.tx.Own().Nodes.All() {
		if len(n.Manifest) > 0 {
			return
		}
	}
	for i := range a.cfg.Nodes {
		if name := fmt.Sprintf("node%d", i+1); a.tx.Own().Node(name) == nil {
			a.putNewNode(name, "")
		}
	}
}

// AddNode adds a node of that name, with ranges and addresses of its own.
func (c *Controller) AddNode(name string) error {
	return c.update(func(s *step) error {
		if s.tx.Own().Node(name) != nil {
			return &conflictError{fmt.Sprintf("Node %s is there already", name)}
		}
		s.putNewNode(name, "")
		return nil
	})
}

// checkNodes refuses nodes whose ranges or addresses are another's.
func (a *applying) checkNodes(o *cluster.Objects) {
	incoming := map[string]bool{}
	for _, n := range o.Nodes {
		incoming[n.Name] = true
	}
	if len(incoming) == 0 {
		return
	}
	var nodes, last []*cluster.Node
	for n := range a.tx.Own().Nodes.All() {
		if incoming[n.Name] {
			last = append(last, n)
		} else {
			nodes = append(nodes, n)
		}
	}
	for _, c := range cluster.Conflicts(append(nodes, last...), nil) {
		a.refuse(c.Object, &fault{c.Field, c.Message})
	}
}
