package l2

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// Options of neighbor discovery (RFC 4861 section 4.6).
const (
	SourceMAC  = 1 // source link-layer address
	TargetMAC  = 2 // target link-layer address
	PrefixInfo = 3
	LinkMTU    = 5
)

// Options are the options of a message, back to back, as they are in the frame.
// Those that a parser of this package returned are well formed.
type Options []byte

// valid reports whether every option has a length and ends within o.
func (o Options) valid() bool {
	for len(o) > 0 {
		if len(o) < 8 || o[1] == 0 || len(o) < int(o[1])*8 {
			return false
		}
		o = o[int(o[1])*8:]
	}
	return true
}

// All yields the type and the whole bytes of every option.
func (o Options) All() iter.Seq2[uint8, []byte] {
	return func(yield func(uint8, []byte) bool) {
		for len(o) >= 8 && o[1] != 0 && len(o) >= int(o[1])*8 {
			n := int(o[1]) * 8
			if !yield(o[0], o[:n:n]) {
				return
			}
			o = o[n:]
		}
	}
}

// find returns the first option of a type and at least n bytes.
func (o Options) find(typ uint8, n int) []byte {
	for t, option := range o.All() {
		if t == typ && len(option) >= n {
			return option
		}
	}
	return nil
}

func (o Options) has(typ uint8) bool { return o.find(typ, 0) != nil }

// MAC returns the link-layer address of an option, SourceMAC or TargetMAC.
func (o Options) MAC(typ uint8) (mac [6]byte, ok bool) {
	// Ethernet's option is 8 bytes (RFC 2464 section 6); others are another
	// medium's.
	if option := o.find(typ, 8); len(option) == 8 {
		return [6]byte(option[2:8]), true
	}
	return mac, false
}

// MTU returns the MTU that a router advertises, in bytes.
func (o Options) MTU() (mtu uint32, ok bool) {
	if option := o.find(LinkMTU, 8); option != nil {
		return binary.BigEndian.Uint32(option[4:8]), true
	}
	return 0, false
}

// Prefix is what a router says of a prefix (RFC 4861 section 4.6.2). Lifetimes
// are in seconds; all ones mean forever.
type Prefix struct {
	Prefix             netip.Prefix
	OnLink, Autonomous bool
	Valid, Preferred   uint32
}

// Prefixes yields the prefixes that a router advertises. One longer than an
// address is left out.
func (o Options) Prefixes() iter.Seq[Prefix] {
	return func(yield func(Prefix) bool) {
		for t, option := range o.All() {
			if t != PrefixInfo || len(option) != 32 || option[2] > 128 {
				continue
			}
			p := Prefix{
				Prefix:     netip.PrefixFrom(netip.AddrFrom16([16]byte(option[16:32])), int(option[2])),
				OnLink:     option[3]&0x80 != 0,
				Autonomous: option[3]&0x40 != 0,
				Valid:      binary.BigEndian.Uint32(option[4:8]),
				Preferred:  binary.BigEndian.Uint32(option[8:12]),
			}
			if !yield(p) {
				return
			}
		}
	}
}
