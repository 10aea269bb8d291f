package porttest

import (
	"bytes"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestOracle checks the oracle against gopacket: every segment is what gopacket
// makes of the same fields, lengths and checksums computed anew, and the
// payloads add up.
func TestOracle(t *testing.T) {
	frames := append(superpackets(in), superpackets(out)...)
	frames = append(frames, udp(in, 1, 60), udp(out, 2, 1514),
		shape{v6: true, proto: 6, seq: 3, flags: 0x18, opts: 8, data: 99}.partial(),
		shape{proto: 17, seq: 4, data: 101}.partial())
	for i, f := range frames {
		segments, err := Wire(f)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		var payload []byte
		for j, s := range segments {
			if err := Verify(s); err != nil {
				t.Errorf("frame %d segment %d: %v", i, j, err)
			}
			again, data := rebuild(t, s)
			if !bytes.Equal(again, s) {
				t.Errorf("frame %d segment %d:\n got %x\nwant %x", i, j, head(s), head(again))
			}
			payload = append(payload, data...)
		}
		if !bytes.HasSuffix(f.Data, payload) || len(payload) == 0 {
			t.Errorf("frame %d: the payload of %d segments is not the payload", i, len(segments))
		}
		for _, bit := range []int{8 * 20, 8*len(segments[0]) - 1} {
			bad := bytes.Clone(segments[0])
			bad[bit/8] ^= 1 << (bit % 8)
			if Verify(bad) == nil {
				t.Errorf("frame %d: Verify takes a flipped bit %d for right", i, bit)
			}
		}
	}
}

// rebuild decodes the frame f and serializes it again.
func rebuild(t *testing.T, f []byte) (again, payload []byte) {
	t.Helper()
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	network := p.NetworkLayer()
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		l.SetNetworkLayerForChecksum(network)
		payload = l.Payload
	case *layers.UDP:
		l.SetNetworkLayerForChecksum(network)
		payload = l.Payload
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		p.LinkLayer().(gopacket.SerializableLayer), network.(gopacket.SerializableLayer),
		p.TransportLayer().(gopacket.SerializableLayer), gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()[:len(f)], payload // gopacket pads to 60 bytes
}
