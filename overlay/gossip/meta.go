package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hashicorp/memberlist"
)

// metaVersion is the first byte of a node's metadata. It changes when an older
// node would misunderstand; a new kind of field does not change it.
const metaVersion = 1

// Fields of the metadata: one byte kind, one byte length, value. Kinds ascend;
// unknown ones are skipped, so that newer nodes can say more.
const (
	fieldCluster  = 1 // 8 bytes of a hash of the cluster's name
	fieldLife     = 2 // 8 bytes, random, never 0
	fieldAddress  = 3 // 4 or 16 bytes; repeated
	fieldClaim    = 4 // flags, prefix length, 8 bytes stamp, 4 or 16 bytes address; repeated
	fieldUnderlay = 5 // 2 bytes port, 4 or 16 bytes address
	fieldVTEPMAC  = 6 // 6 bytes
	fieldPorts    = 7 // 2 bytes each
	fieldExtra    = 8 // 4 or 16 bytes; repeated
)

const claimAutomatic = 1 // flag of a claim

var (
	// errMetaVersion is a node of another release; errCluster one of another cluster.
	errMetaVersion = errors.New("unknown metadata version")
	errCluster     = errors.New("node of another cluster")
)

// meta is what memberlist carries for a node: what a route needs.
type meta struct {
	cluster uint64
	life    uint64
	facts   Facts // without labels
	claims  []Claim
}

// clusterID condenses a cluster's name into what fits the metadata.
func clusterID(name string) uint64 {
	sum := sha256.Sum256([]byte("vswitch cluster " + name))
	return binary.BigEndian.Uint64(sum[:])
}

// encode returns the metadata's bytes, at most memberlist.MetaMaxSize.
func (m *meta) encode() ([]byte, error) {
	w := writer{metaVersion}
	field := func(kind uint8, value []byte) {
		w.u8(kind)
		w.u8(uint8(len(value)))
		w = append(w, value...)
	}
	field(fieldCluster, binary.BigEndian.AppendUint64(nil, m.cluster))
	field(fieldLife, binary.BigEndian.AppendUint64(nil, m.life))
	for _, a := range m.facts.Addresses {
		field(fieldAddress, a.AsSlice())
	}
	for _, c := range m.claims {
		var v writer
		v.claim(c)
		field(fieldClaim, v)
	}
	if u := m.facts.Underlay; u.IsValid() {
		field(fieldUnderlay, append(binary.BigEndian.AppendUint16(nil, u.Port()), u.Addr().AsSlice()...))
	}
	if m.facts.VTEPMAC != [6]byte{} {
		field(fieldVTEPMAC, m.facts.VTEPMAC[:])
	}
	if len(m.facts.SourcePorts) > 0 {
		var v []byte
		for _, p := range m.facts.SourcePorts {
			v = binary.BigEndian.AppendUint16(v, p)
		}
		field(fieldPorts, v)
	}
	for _, a := range m.facts.ExtraAddresses {
		field(fieldExtra, a.AsSlice())
	}
	if len(w) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("node facts need %d bytes, %d fit: announce fewer extra addresses, source ports or ranges", len(w), memberlist.MetaMaxSize)
	}
	return w, nil
}

func (w *writer) claim(c Claim) {
	flags := uint8(0)
	if c.Automatic {
		flags |= claimAutomatic
	}
	w.u8(flags)
	w.u8(uint8(c.Prefix.Bits()))
	w.u64(c.Stamp)
	*w = append(*w, c.Prefix.Addr().AsSlice()...)
}

// claim reads a claim that fills the rest of the buffer.
func (r *reader) claim() Claim {
	c := Claim{Automatic: r.u8()&claimAutomatic != 0}
	bits := int(r.u8())
	c.Stamp = r.u64()
	c.Prefix = netip.PrefixFrom(r.addrOf(len(r.buf)), bits)
	if r.buf = nil; r.err == nil && !validRange(c.Prefix) {
		r.err = errMalformed
	}
	return c
}

// decodeMeta reads metadata that a peer announces. What it returns is well
// formed; whether it is plausible (ranges, cluster) is for the caller.
func decodeMeta(b []byte) (*meta, error) {
	if len(b) == 0 || len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("node metadata of %d bytes: %w", len(b), errMalformed)
	}
	if b[0] != metaVersion {
		return nil, fmt.Errorf("%w %d; this node knows %d", errMetaVersion, b[0], metaVersion)
	}
	m := &meta{}
	r := reader{buf: b[1:]}
	last := uint8(0)
	for len(r.buf) > 0 && r.err == nil {
		kind := r.u8()
		f := reader{buf: r.take(int(r.u8())), err: r.err}
		if kind < last || kind == last && kind != fieldAddress && kind != fieldClaim && kind <= fieldPorts {
			return nil, fmt.Errorf("node metadata: field %d is out of order: %w", kind, errMalformed)
		}
		last = kind
		if err := m.readField(kind, &f); err != nil {
			return nil, fmt.Errorf("node metadata: field %d: %w", kind, err)
		}
	}
	if r.err != nil || m.life == 0 || m.cluster == 0 {
		return nil, fmt.Errorf("node metadata: %w", errMalformed)
	}
	if err := m.facts.validate(); err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	return m, nil
}

func (m *meta) readField(kind uint8, f *reader) error {
	switch kind {
	case fieldCluster:
		m.cluster = f.u64()
	case fieldLife:
		m.life = f.u64()
	case fieldAddress:
		m.facts.Addresses = append(m.facts.Addresses, f.addrOf(len(f.buf)))
	case fieldClaim:
		if m.claims = append(m.claims, f.claim()); len(m.claims) > maxClaims {
			return errMalformed
		}
	case fieldUnderlay:
		b := f.take(2)
		a := f.addrOf(len(f.buf))
		if f.err == nil {
			m.facts.Underlay = netip.AddrPortFrom(a, binary.BigEndian.Uint16(b))
		}
	case fieldVTEPMAC:
		copy(m.facts.VTEPMAC[:], f.take(6))
	case fieldPorts:
		for len(f.buf) > 0 && f.err == nil {
			if b := f.take(2); b != nil {
				m.facts.SourcePorts = append(m.facts.SourcePorts, binary.BigEndian.Uint16(b))
			}
		}
	case fieldExtra:
		m.facts.ExtraAddresses = append(m.facts.ExtraAddresses, f.addrOf(len(f.buf)))
	default:
		return f.err
	}
	return f.end()
}
