package control

import (
	"errors"

	"vswitch/vswitch/cluster"
)

// Isolate stores policies that could not be understood, with Invalid set, so
// that the pods which they select are isolated until somebody corrects or
// deletes them. A policy that is there and was understood stays in force as it
// is ("kept"); all others are "isolated".
func (c *Controller) Isolate(o *cluster.Objects) ([]Result, error) {
	var results []Result
	err := c.update(func(s *step) error {
		a := &applying{step: s}
		for v := range o.All() {
			if _, ok := invalid(v); ok {
				a.isolate(v)
			}
		}
		results = a.results
		return errors.Join(a.errs...)
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// invalid returns why a policy could not be understood; ok is false for what is
// none.
func invalid(o cluster.Object) (why string, ok bool) {
	switch v := o.(type) {
	case *cluster.NetworkPolicy:
		return v.Invalid, true
	case *cluster.ClusterNetworkPolicy:
		return v.Invalid, true
	}
	return "", false
}

// eventInvalid is the reason of the event of a policy that isolates because it could
// not be understood.
const eventInvalid = "Invalid"

// isolate stores one policy that is invalid, unless the one that is there is not.
// A namespace that is being deleted takes it, too: its pods may still run.
func (a *applying) isolate(in cluster.Object) {
	v, cur := cluster.Clone(in), a.tx.Own().Get(cluster.RefOf(in))
	if why, _ := invalid(v); why == "" {
		a.refuse(v, faultf("", "nothing is wrong with the policy; apply it"))
		return
	}
	if cur == nil {
		a.create(v.Metadata())
	} else {
		if why, _ := invalid(cur); why == "" {
			a.done(v, "kept")
			return
		}
		take(v.Metadata(), cur.Metadata())
		if same(v, cur) {
			a.done(v, "isolated")
			return
		}
		v.Metadata().Generation++
	}
	a.put(v)
	why, _ := invalid(v)
	a.said.happened(v, true, eventInvalid, why)
	a.done(v, "isolated")
}
