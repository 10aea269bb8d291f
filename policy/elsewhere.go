package policy

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"vswitch/vswitch/packet"
)

// Ranges say where pods have their addresses, and of which of them the node knows
// all pods. The longest range that holds an address counts.
type Ranges struct {
	// Pods are the ranges of all pods, Here those of them that this node has.
	Pods, Here []netip.Prefix
	// Told are ranges whose pods have all been told of, Awaited those of which
	// something is still to come. A range of Pods that is not in Told is awaited.
	Told, Awaited []netip.Prefix
}

func (r *Ranges) equal(q *Ranges) bool {
	return slices.Equal(r.Pods, q.Pods) && slices.Equal(r.Here, q.Here) && slices.Equal(r.Told, q.Told) && slices.Equal(r.Awaited, q.Awaited)
}

func (r *Ranges) clone() Ranges {
	return Ranges{slices.Clone(r.Pods), slices.Clone(r.Here), slices.Clone(r.Told), slices.Clone(r.Awaited)}
}

// news is what is known of the pods of a range. The zero value is of addresses
// that no pod of another node has.
type news uint8

const (
	nothing news = iota
	awaited
	told
)

// elsewhere are the addresses that pods of other nodes have. It is immutable.
type elsewhere struct {
	ranges Ranges
	table  bart.Table[news]
}

func newElsewhere(r *Ranges) *elsewhere {
	e := &elsewhere{ranges: r.clone()}
	insert := func(list []netip.Prefix, n news) {
		for _, p := range list {
			e.table.Insert(p.Masked(), n)
		}
	}
	// In doubt the later one counts.
	insert(r.Pods, awaited)
	insert(r.Told, told)
	insert(r.Awaited, awaited)
	insert(r.Here, nothing)
	return e
}

// of tells what is known of who has an address.
func (e *elsewhere) of(a *packet.Addr) news {
	if e == nil {
		return nothing
	}
	n, _ := e.table.Lookup(a.Netip())
	return n
}

// SetRanges tells the ranges of pods. From then on an address of another node's, of
// whose pod nothing is known, gets another verdict than nobody's, where it makes a
// difference who has it: it may be a pod that has just started, and whom a policy
// denies, or allows. What nobody may do, is denied, by name where all pods of the
// range have been told of, and else by a Pending verdict. What nobody may do and
// some pod may not, is Pending: to be told of all pods does not mean that none has
// started since. Without SetRanges, such an address is nobody's. It reports
// whether that makes a difference to Set.
func (c *Compiler) SetRanges(r Ranges) bool {
	if e := c.set.elsewhere; e != nil && e.ranges.equal(&r) {
		return false
	}
	set := *c.set
	set.elsewhere = newElsewhere(&r)
	c.set = &set
	return true
}

// unknown takes back a verdict on nobody's address in a range of pods, where it
// makes a difference which pod has it.
func (d *direction) unknown(v Verdict, is news) Verdict {
	other := d.otherwise(v.by, v.Allowed, v.proto, v.port)
	if other == nil {
		return v
	}
	v.Unknown = true
	if v.Allowed || is != told {
		v.Allowed, v.Pending, v.by, v.unless = false, true, nil, other
	}
	return v
}

// otherwise returns a term that would have its say before by, and decide otherwise,
// if its peer were there; nil if it makes no difference who that is.
func (d *direction) otherwise(by *decision, allowed bool, proto uint8, port uint16) *decision {
	end := len(d.terms)
	if by != nil {
		end = by.place
	}
	differs := func(t *decision) bool { return t.action == pass || (t.action == accept) != allowed }
	for i := range d.openNames {
		if o := &d.openNames[i]; o.place <= end && differs(o) {
			return o
		}
	}
	ports := d.ports.row(proto, port)
	for i := 0; i*64 < end; i++ {
		hit := d.selected[i] & ports[i]
		if rest := end - i*64; rest < 64 {
			hit &= 1<<rest - 1
		}
		for ; hit != 0; hit &= hit - 1 {
			if t := &d.terms[i*64+bits.TrailingZeros64(hit)]; differs(t) {
				return t
			}
		}
	}
	return nil
}
