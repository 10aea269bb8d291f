package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
)

// largest is metadata with as much of everything as is allowed.
func largest() *meta {
	m := &meta{cluster: clusterID("x"), life: 1, facts: Facts{
		Addresses: []netip.Addr{netip.MustParseAddr("172.29.0.1"), netip.MustParseAddr("fd00::1")},
		Underlay:  netip.MustParseAddrPort("[fd00::2]:8472"),
		VTEPMAC:   [6]byte{2, 0, 0, 0, 0, 1},
	}}
	for i := range maxClaims {
		m.claims = append(m.claims, Claim{Prefix: prefix(fmt.Sprintf("fd00:10:244:%x::/64", i)), Stamp: ^uint64(0), Automatic: i%2 == 0})
	}
	// Half of what a node may have fits beside the largest of everything else;
	// with fewer ranges or source ports, all do.
	for i := range MaxExtraAddresses / 2 {
		m.facts.ExtraAddresses = append(m.facts.ExtraAddresses, netip.MustParseAddr(fmt.Sprintf("fd00::1:%x", i)))
	}
	for i := range maxSourcePorts {
		m.facts.SourcePorts = append(m.facts.SourcePorts, uint16(40000+i))
	}
	return m
}

func TestLargestMetaFits(t *testing.T) {
	m := largest()
	b, err := m.encode()
	must0(t, err)
	t.Logf("%d of %d bytes", len(b), memberlist.MetaMaxSize)
	got, err := decodeMeta(b)
	must0(t, err)
	if !reflect.DeepEqual(got, m) {
		t.Errorf("%+v", got)
	}
	m.facts.SourcePorts = nil
	for i := range MaxExtraAddresses / 2 {
		m.facts.ExtraAddresses = append(m.facts.ExtraAddresses, netip.MustParseAddr(fmt.Sprintf("fd00::2:%x", i)))
	}
	b, err = m.encode()
	must0(t, err)
	if got, err := decodeMeta(b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("with all extra addresses: %+v, %v", got, err)
	}
	typical := &meta{cluster: 1, life: 1, facts: Facts{Addresses: m.facts.Addresses[:1], Underlay: netip.MustParseAddrPort("10.0.0.1:8472"), VTEPMAC: m.facts.VTEPMAC},
		claims: []Claim{{Prefix: prefix("10.244.1.0/24"), Stamp: 1}, m.claims[1]}}
	b, err = typical.encode()
	must0(t, err)
	t.Logf("a dual stack node of VXLAN: %d bytes", len(b))
}

func TestDecodeMetaRefuses(t *testing.T) {
	good, err := largest().encode()
	must0(t, err)
	field := func(kind byte, v ...byte) []byte { return append([]byte{kind, byte(len(v))}, v...) }
	base := append(append([]byte{metaVersion}, field(fieldCluster, 0, 0, 0, 0, 0, 0, 0, 1)...), field(fieldLife, 0, 0, 0, 0, 0, 0, 0, 1)...)
	with := func(f ...[]byte) []byte { return append(bytes.Clone(base), bytes.Join(f, nil)...) }
	claim := []byte{0, 24, 0, 0, 0, 0, 0, 0, 0, 1, 10, 244, 1, 0}
	for _, tc := range []struct {
		name string
		b    []byte
		want error // nil: accepted
	}{
		{"smallest", base, nil},
		{"a field of the future", with(field(200, 1, 2, 3)), nil},
		{"claim", with(field(fieldClaim, claim...)), nil},
		{"empty", nil, errMalformed},
		{"newer version", append([]byte{2}, base[1:]...), errMetaVersion},
		{"no life", base[:11], errMalformed},
		{"cut", good[:len(good)-1], errMalformed},
		{"too long", append(bytes.Clone(good), make([]byte, 512)...), errMalformed},
		{"life twice", with(field(fieldLife, 0, 0, 0, 0, 0, 0, 0, 2)), errMalformed},
		{"out of order", with(field(fieldVTEPMAC, 2, 0, 0, 0, 0, 1), field(fieldAddress, 10, 0, 0, 1)), errMalformed},
		{"address of 5 bytes", with(field(fieldAddress, 10, 0, 0, 1, 1)), errMalformed},
		{"IPv4 address in IPv6 form", with(field(fieldAddress, netip.MustParseAddr("::ffff:10.0.0.1").AsSlice()...)), errMalformed},
		{"claim with host bits", with(field(fieldClaim, append(bytes.Clone(claim[:13]), 7)...)), errMalformed},
		{"claim of everything", with(field(fieldClaim, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)), errMalformed},
		{"claim of /33", with(field(fieldClaim, append([]byte{0, 33}, claim[2:]...)...)), errMalformed},
		{"nine claims", with(bytes.Repeat(field(fieldClaim, claim...), 9)), errMalformed},
		{"odd ports", with(field(fieldPorts, 1, 2, 3)), errMalformed},
		{"short MAC", with(field(fieldVTEPMAC, 1, 2, 3)), errMalformed},
	} {
		_, err := decodeMeta(tc.b)
		if tc.want == nil && err != nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	for _, a := range []string{"127.0.0.1", "224.0.0.1", "0.0.0.0"} {
		if _, err := decodeMeta(with(field(fieldAddress, netip.MustParseAddr(a).AsSlice()...))); err == nil {
			t.Errorf("node address %s was accepted", a)
		}
		if _, err := decodeMeta(with(field(fieldExtra, netip.MustParseAddr(a).AsSlice()...))); err == nil {
			t.Errorf("extra address %s was accepted", a)
		}
	}
	var many [][]byte
	for i := range byte(MaxExtraAddresses + 1) {
		many = append(many, field(fieldExtra, 10, 0, 0, i))
	}
	if _, err := decodeMeta(with(many[:MaxExtraAddresses]...)); err != nil {
		t.Errorf("%d extra addresses: %v", MaxExtraAddresses, err)
	}
	if _, err := decodeMeta(with(many...)); err == nil {
		t.Errorf("%d extra addresses were accepted", len(many))
	}
	if _, err := decodeMeta(with(field(fieldAddress, 10, 0, 0, 1), field(fieldExtra, 10, 0, 0, 1))); err == nil {
		t.Error("an extra address that is the first one was accepted")
	}
}

func FuzzMeta(f *testing.F) {
	b, err := largest().encode()
	must0NoTest(err)
	f.Add(b)
	b, err = (&meta{cluster: 7, life: 9}).encode()
	must0NoTest(err)
	f.Add(b)
	f.Add(append(b, 200, 3, 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatalf("decoded, but cannot be encoded: %v", err)
		}
		n, err := decodeMeta(again)
		if err != nil || !reflect.DeepEqual(m, n) {
			t.Fatalf("%+v became %+v: %v", m, n, err)
		}
		for _, c := range m.claims {
			if !c.Prefix.IsValid() || c.Prefix != c.Prefix.Masked() || c.Prefix.Bits() == 0 {
				t.Fatalf("claim %v", c)
			}
		}
	})
}

func must0NoTest(err error) {
	if err != nil {
		panic(err)
	}
}

// samples are one message of every kind.
func samples() [][]byte {
	st := &stateMsg{edition: edition{"n1", 7, 3}, labels: map[string]string{"zone": "a", "arch": "x"}, pods: pods(1, 2)}
	return [][]byte{
		st.encode(),
		(&deltaMsg{edition: edition{"n1", 7, 5}, base: 3, hasLabels: true, labels: map[string]string{"zone": "b"}, set: pods(1, 1), removed: []podKey{{"a", "b"}, {"a", "c"}}}).encode(),
		(&deltaMsg{edition: edition{"n1", 7, 5}, base: 1}).encode(),
		(&digestMsg{editions: []edition{{"n1", 7, 5}, {"n2", 1, 1}}, states: [][]byte{st.encode()},
			gone: []former{{"n3", []Claim{{Prefix: prefix("10.244.3.0/24"), Stamp: 4, Automatic: true}}, 60}}}).encode(),
		(&wantMsg{from: "n2", editions: []edition{{"n1", 7, 0}}}).encode(),
		encodeGoodbye(edition{"n1", 7, 3}),
		(&keyMsg{id: 4, from: "n1", op: opInstall, arg: string(keyA)}).encode(kindKeyAsk),
		(&keyMsg{id: 4, from: "n1", fail: "why", ring: []string{"aa", "bb"}}).encode(kindKeyTell),
	}
}

// encodeAny is the inverse of decodeMessage.
func encodeAny(kind uint8, msg any) []byte {
	switch m := msg.(type) {
	case *stateMsg:
		return m.encode()
	case *deltaMsg:
		return m.encode()
	case *digestMsg:
		return m.encode()
	case *wantMsg:
		return m.encode()
	case *edition:
		return encodeGoodbye(*m)
	case *keyMsg:
		return m.encode(kind)
	}
	panic(fmt.Sprintf("kind %d is %T", kind, msg))
}

func TestMessagesRoundTrip(t *testing.T) {
	for i, b := range samples() {
		kind, msg, err := decodeMessage(b)
		if err != nil {
			t.Errorf("sample %d: %v", i, err)
			continue
		}
		if got := encodeAny(kind, msg); !bytes.Equal(got, b) {
			t.Errorf("sample %d of kind %d:\n%x\n%x", i, kind, b, got)
		}
		for n := range b {
			if _, _, err := decodeMessage(b[:n]); !errors.Is(err, errMalformed) {
				t.Errorf("sample %d cut to %d of %d bytes: %v", i, n, len(b), err)
			}
		}
		if _, _, err := decodeMessage(append(bytes.Clone(b), 0)); !errors.Is(err, errMalformed) {
			t.Errorf("sample %d with a byte more: %v", i, err)
		}
	}
}

func TestDecodeMessageRefuses(t *testing.T) {
	two := pods(1, 2)
	swapped := []Pod{two[1], two[0]}
	huge := newMessage(kindState)
	huge.edition(edition{"n1", 1, 1})
	huge.uint(0)
	huge.uint(1 << 40)
	for _, tc := range []struct {
		name string
		b    []byte
	}{
		{"unsorted pods", (&stateMsg{edition: edition{"n1", 1, 1}, pods: swapped}).encode()},
		{"a pod twice", (&stateMsg{edition: edition{"n1", 1, 1}, pods: []Pod{two[0], two[0]}}).encode()},
		{"loopback pod", (&stateMsg{edition: edition{"n1", 1, 1}, pods: []Pod{{Name: "p", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}}).encode()},
		{"nameless pod", (&stateMsg{edition: edition{"n1", 1, 1}, pods: []Pod{{}}}).encode()},
		{"owner with a space", (&stateMsg{edition: edition{"n 1", 1, 1}}).encode()},
		{"delta to the past", (&deltaMsg{edition: edition{"n1", 1, 3}, base: 3}).encode()},
		{"2^40 pods", huge},
		{"long label", (&stateMsg{edition: edition{"n1", 1, 1}, labels: map[string]string{"k": strings.Repeat("v", 513)}}).encode()},
		{"other version", []byte{2, kindState}},
		{"unknown kind", []byte{1, 99}},
	} {
		if _, _, err := decodeMessage(tc.b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, msg, err := decodeMessage(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("error without its sentinel: %v", err)
			}
			return
		}
		again := encodeAny(kind, msg)
		kind2, msg2, err := decodeMessage(again)
		if err != nil || kind2 != kind || !bytes.Equal(encodeAny(kind2, msg2), again) {
			t.Fatalf("kind %d is not stable: %v", kind, err)
		}
	})
}
