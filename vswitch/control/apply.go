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
	for _, n := range o.Namespaces {
		a.namespace(n)
	}
	for _, n := range o.Nodes {
		a.node(n)
	}
	for _, d := range o.Deployments {
		a.deployment(d)
	}
	for _, p := range o.Pods {
		a.pod(p)
	}
	for _, v := range o.Services {
		a.service(v)
	}
	for _, v := range o.EndpointSlices {
		a.endpointSlice(v)
	}
	for _, v := range o.Endpoints {
		a.endpoints(v)
	}
	for _, v := range o.NetworkPolicies {
		a.networkPolicy(v)
	}
	for _, v := range o.ClusterNetworkPolicies {
		a.clusterNetworkPolicy(v)
	}
	a.defaultNodes()
	a.checkNodes(o)
}

func (a *applying) done(kind cluster.Kind, m *cluster.Meta, action string) {
	a.results = append(a.results, Result{Ref: cluster.Ref{Kind: kind, Key: m.Key()}, Action: action})
}

// refuse notes that an object cannot be applied. The message begins with where
// it was read.
func (a *applying) refuse(kind cluster.Kind, m *cluster.Meta, field, format string, args ...any) {
	text := sourced(m, string(kind)+" "+m.Key().String()+": ")
	if field != "" {
		text += field + ": "
	}
	a.errs = append(a.errs, &conflictError{text + fmt.Sprintf(format, args...)})
}

// conflictError is an ErrConflict whose message needs no prefix.
type conflictError struct{ text string }

func (e *conflictError) Error() string        { return e.text }
func (e *conflictError) Is(target error) bool { return target == ErrConflict }

// leaving refuses objects of a name or namespace that is being deleted.
func (a *applying) leaving(kind cluster.Kind, m, cur *cluster.Meta) bool {
	if m.Namespace != "" {
		if n := a.tx.Own().Namespace(m.Namespace); n != nil && !n.Deleted.IsZero() {
			a.refuse(kind, m, "metadata.namespace", "namespace %s is being deleted; apply again when it is gone", m.Namespace)
			return true
		}
	}
	if cur != nil && !cur.Deleted.IsZero() {
		a.refuse(kind, m, "", "the one of this name is being deleted; apply again when it is gone")
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
func same[T any](a, b *T, source func(*T) *string) bool {
	x, y := *a, *b
	*source(&x), *source(&y) = "", ""
	return reflect.DeepEqual(&x, &y)
}

func (a *applying) namespace(in *cluster.Namespace) {
	n := *in
	cur := a.tx.Own().Namespace(n.Name)
	if cur == nil {
		a.create(&n.Meta)
		a.putNamespace(&n)
		a.done(cluster.KindNamespace, &n.Meta, "created")
		return
	}
	if a.leaving(cluster.KindNamespace, &n.Meta, &cur.Meta) {
		return
	}
	take(&n.Meta, &cur.Meta)
	if same(&n, cur, func(n *cluster.Namespace) *string { return &n.Source }) {
		a.done(cluster.KindNamespace, &n.Meta, "unchanged")
		return
	}
	n.Generation++
	a.putNamespace(&n)
	a.done(cluster.KindNamespace, &n.Meta, "configured")
}

func (a *applying) node(in *cluster.Node) {
	n := *in
	n.Ready, n.Reason = false, "" // it is seen, not wished
	if n.Labels[hostnameLabel] == "" {
		labels := map[string]string{hostnameLabel: n.Name}
		for k, v := range in.Labels {
			labels[k] = v
		}
		n.Labels = labels
	}
	for i, p := range n.PodCIDRs {
		if !slices.ContainsFunc(a.cfg.ClusterCIDRs, func(c netip.Prefix) bool { return c.Bits() <= p.Bits() && c.Contains(p.Addr()) }) {
			a.refuse(cluster.KindNode, &n.Meta, fmt.Sprintf("spec.podCIDRs[%d]", i),
				"%s lies outside the cluster's %s; choose another, or give the cluster a larger range (--cluster-cidr)", p, join(a.cfg.ClusterCIDRs))
			return
		}
	}
	cur := a.tx.Own().Node(n.Name)
	if cur == nil {
		a.create(&n.Meta)
		a.putNode(&n)
		a.done(cluster.KindNode, &n.Meta, "created")
		return
	}
	take(&n.Meta, &cur.Meta)
	if len(n.PodCIDRs) == 0 {
		n.PodCIDRs = cur.PodCIDRs
	}
	if len(n.Addresses) == 0 {
		n.Addresses, n.ExtraAddresses = cur.Addresses, cur.ExtraAddresses
	}
	if !slices.Equal(n.PodCIDRs, cur.PodCIDRs) {
		a.refuse(cluster.KindNode, &n.Meta, "spec.podCIDRs", "cannot be changed from %s; delete the node first", join(cur.PodCIDRs))
		return
	}
	if !slices.Equal(n.Addresses, cur.Addresses) {
		a.refuse(cluster.KindNode, &n.Meta, "status.addresses", "cannot be changed from %s; delete the node first", join(cur.Addresses))
		return
	}
	if same(&n, cur, func(n *cluster.Node) *string { return &n.Source }) {
		a.done(cluster.KindNode, &n.Meta, "unchanged")
		return
	}
	n.Generation++
	a.putNode(&n)
	a.done(cluster.KindNode, &n.Meta, "configured")
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

func (a *applying) deployment(in *cluster.Deployment) {
	d := *in
	d.Serial, d.CurrentReplicas, d.UpdatedReplicas, d.ReadyReplicas, d.AvailableReplicas = 0, 0, 0, 0, 0
	clearStatus(&d.Template)
	cur := a.tx.Own().Deployment(d.Key())
	if cur == nil {
		if a.leaving(cluster.KindDeployment, &d.Meta, nil) {
			return
		}
		a.create(&d.Meta)
		a.putDeployment(&d)
		a.done(cluster.KindDeployment, &d.Meta, "created")
		return
	}
	if a.leaving(cluster.KindDeployment, &d.Meta, &cur.Meta) {
		return
	}
	if !reflect.DeepEqual(d.Selector, cur.Selector) {
		a.refuse(cluster.KindDeployment, &d.Meta, "spec.selector", "cannot be changed; delete the Deployment first")
		return
	}
	take(&d.Meta, &cur.Meta)
	d.Serial, d.CurrentReplicas, d.UpdatedReplicas = cur.Serial, cur.CurrentReplicas, cur.UpdatedReplicas
	d.ReadyReplicas, d.AvailableReplicas = cur.ReadyReplicas, cur.AvailableReplicas
	if d.Paused {
		// The template that is rolled out stays until the manifest that ends
		// the pause brings the one that is to be.
		d.Template = cur.Template
	}
	if same(&d, cur, func(d *cluster.Deployment) *string { return &d.Source }) {
		a.done(cluster.KindDeployment, &d.Meta, "unchanged")
		return
	}
	d.Generation++
	a.putDeployment(&d)
	a.done(cluster.KindDeployment, &d.Meta, "configured")
}

func (a *applying) pod(in *cluster.Pod) {
	p := *in
	clearStatus(&p)
	if p.Owner.Name != "" {
		// A replica that was exported from somewhere is one here only if its
		// Deployment is here, too.
		if d := a.tx.Own().Deployment(p.Owner); d != nil {
			p.OwnerUID = d.UID
		} else {
			p.Owner, p.OwnerUID = cluster.Key{}, ""
		}
	}
	cur := a.tx.Own().Pod(p.Key())
	if cur == nil {
		if a.leaving(cluster.KindPod, &p.Meta, nil) {
			return
		}
		a.create(&p.Meta)
		a.putPod(&p)
		a.done(cluster.KindPod, &p.Meta, "created")
		return
	}
	if a.leaving(cluster.KindPod, &p.Meta, &cur.Meta) {
		return
	}
	take(&p.Meta, &cur.Meta)
	if p.Node == "" {
		p.Node = cur.Node
	}
	p.Reason = cur.Reason
	if same(&p, cur, func(p *cluster.Pod) *string { return &p.Source }) {
		a.done(cluster.KindPod, &p.Meta, "unchanged")
		return
	}
	if field := immutable(cur, &p); field != "" {
		if !a.opts.Replace {
			a.refuse(cluster.KindPod, &p.Meta, field, "cannot be changed in a pod that exists; delete the pod first, or apply with --force")
			return
		}
		a.create(&p.Meta)
		p.Node, p.Reason = in.Node, ""
		a.putPod(&p)
		a.done(cluster.KindPod, &p.Meta, "replaced")
		return
	}
	p.Generation++
	a.putPod(&p)
	a.done(cluster.KindPod, &p.Meta, "configured")
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
		a.refuse(c.Ref.Kind, c.Object, c.Field, "%s", c.Message)
	}
}
