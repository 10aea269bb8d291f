package overlay

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
)

func TestHeader(t *testing.T) {
	for vni, want := range map[uint32][]byte{
		0:           {8, 0, 0, 0, 0, 0, 0, 0},
		1:           {8, 0, 0, 0, 0, 0, 1, 0},
		0x123456:    {8, 0, 0, 0, 0x12, 0x34, 0x56, 0},
		MaxVNI:      {8, 0, 0, 0, 0xff, 0xff, 0xff, 0},
		0xff0000_01: {8, 0, 0, 0, 0, 0, 1, 0},
	} {
		got := bytes.Repeat([]byte{0xaa}, 10)
		PutHeader(got, vni)
		if !bytes.Equal(got[:8], want) || got[8] != 0xaa {
			t.Errorf("PutHeader(%#x) = %x", vni, got)
		}
	}
}

func TestParseHeader(t *testing.T) {
	for _, c := range []struct {
		b   []byte
		vni uint32
		err error
	}{
		{nil, 0, ErrShort},
		{[]byte{8, 0, 0, 0, 0, 0, 1}, 0, ErrShort},
		{[]byte{8, 0, 0, 0, 0, 0, 1, 0}, 1, nil},
		{[]byte{8, 0, 0, 0, 0xff, 0xff, 0xff, 0, 9}, MaxVNI, nil},
		{[]byte{0, 0, 0, 0, 0, 0, 1, 0}, 0, ErrHeader},    // no VNI
		{[]byte{0x88, 0, 0, 0, 0, 0, 1, 0}, 0, ErrHeader}, // GBP
		{[]byte{0x0c, 0, 0, 0, 0, 0, 1, 0}, 0, ErrHeader}, // GPE
		{[]byte{8, 0, 0, 1, 0, 0, 1, 0}, 0, ErrHeader},
		{[]byte{8, 0, 0, 0, 0, 0, 1, 1}, 0, ErrHeader},
	} {
		if vni, err := ParseHeader(c.b); vni != c.vni || !errors.Is(err, c.err) {
			t.Errorf("ParseHeader(%x) = %d, %v", c.b, vni, err)
		}
	}
}

// FuzzHeader checks the parser against RFC 7348's picture, bit by bit.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{8, 0, 0, 0, 0xff, 0xff, 0xff, 0, 1, 2, 3})
	f.Add([]byte{0x88, 0, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{8})
	f.Fuzz(func(t *testing.T, b []byte) {
		vni, err := ParseHeader(b)
		if len(b) < 8 {
			if !errors.Is(err, ErrShort) {
				t.Fatal(err)
			}
			return
		}
		plain := b[0] == 8 && b[1] == 0 && b[2] == 0 && b[3] == 0 && b[7] == 0
		if plain != (err == nil) {
			t.Fatalf("%x: %v", b[:8], err)
		}
		if !plain {
			return
		}
		if vni != uint32(b[4])*65536+uint32(b[5])*256+uint32(b[6]) {
			t.Fatalf("%x: VNI %d", b[:8], vni)
		}
		var again [8]byte
		if PutHeader(again[:], vni); !bytes.Equal(again[:], b[:8]) {
			t.Fatalf("%x became %x", b[:8], again)
		}
	})
}

func TestInnerMTU(t *testing.T) {
	for _, c := range []struct {
		underlay  string
		mtu, want int
	}{
		{"10.0.0.1", 1500, 1450},
		{"fd00::1", 1500, 1430},
		{"::ffff:10.0.0.1", 1500, 1450},
		{"10.0.0.1", 9000, 8950},
		{"127.0.0.1", 65536, 65485},
		{"::1", 65536, 65466},
		{"10.0.0.1", 10, 0},
		{"10.0.0.1", 1 << 20, 65485},
	} {
		if got := InnerMTU(netip.MustParseAddr(c.underlay), c.mtu); got != c.want {
			t.Errorf("InnerMTU(%s, %d) = %d, want %d", c.underlay, c.mtu, got, c.want)
		}
	}
}
