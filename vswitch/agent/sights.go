package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"vswitch/vswitch"
	"vswitch/vswitch/packet"
)

// Sight is a packet as it was seen at a port of a node, its headers read.
type Sight struct {
	// At is the system's monotonic time, comparable between nodes of a machine.
	At   time.Duration `json:"at"`
	Node string        `json:"node"`
	// Port is the pod's name, or "overlay", or "uplink" in mode direct, or "node".
	Port string `json:"port"`
	// Out is set for a packet that left the switch by the port.
	Out         bool           `json:"out"`
	Class       string         `json:"class"`
	Proto       string         `json:"proto,omitempty"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	TCPFlags    string         `json:"tcpFlags,omitempty"`
	TTL         int            `json:"ttl,omitempty"`
	Len         int            `json:"len"` // bytes of the frame, a superpacket whole
	SrcMAC      string         `json:"srcMAC"`
	DstMAC      string         `json:"dstMAC"`
}

// sights streams what is seen at a port as JSON lines, until the client hangs up.
func (n *Node) sights(ctx context.Context, w http.ResponseWriter, port string) {
	c := n.sw.Capture(port, sightLen)
	defer c.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	r := newReader(n.cfg.Name)
	defer r.close()
	for {
		if rc.Flush() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case s := <-c.C:
			if enc.Encode(r.read(s)) != nil {
				return
			}
		}
	}
}

// sightLen is how much of a frame is copied to read its headers.
const sightLen = 256

// Watch calls see for every packet at a port of a switch, or at all ports, until
// stop is called, which returns when see will not be called any more.
func Watch(sw *vswitch.Switch, node, port string, see func(Sight)) (stop func()) {
	c := sw.Capture(port, sightLen)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		r := newReader(node)
		defer r.close()
		for {
			select {
			case s := <-c.C:
				see(r.read(s))
			case <-end:
				for len(c.C) > 0 {
					see(r.read(<-c.C))
				}
				return
			}
		}
	}()
	return func() {
		c.Close()
		close(end)
		<-ended
	}
}

// reader reads headers with the switch's own parser.
type reader struct {
	node string
	b    *packet.Batch
}

func newReader(node string) *reader { return &reader{node, packet.NewBatch()} }

func (r *reader) close() { r.b.Close() }

func (r *reader) read(s vswitch.Sight) Sight {
	out := Sight{At: s.At, Node: r.node, Port: s.Port, Out: s.Out, Len: s.Len, Class: packet.Malformed.String()}
	r.b.Reset()
	p := r.b.Append(s.Frame)
	if p == nil || len(s.Frame) < packet.EthernetLen {
		return out
	}
	out.DstMAC, out.SrcMAC = macString([6]byte(s.Frame)), macString([6]byte(s.Frame[6:]))
	// The frame may have been cut: its length is the one on the wire.
	p.Len = uint32(s.Len)
	if s.Len > len(s.Frame) {
		p.Len = uint32(min(s.Len, packet.MaxFrame))
	}
	r.b.Parse(p)
	out.Class = p.Class.String()
	if p.Class == packet.Malformed || p.Class == packet.Unknown || p.Class == packet.ARP {
		return out
	}
	t := &p.Tuple
	out.Proto = packet.ProtoName(t.Proto)
	out.Source = netip.AddrPortFrom(t.Src.Netip(), t.SrcPort)
	out.Destination = netip.AddrPortFrom(t.Dst.Netip(), t.DstPort)
	out.TTL = int(s.Frame[packet.EthernetLen+7])
	if t.Is4() {
		out.TTL = int(s.Frame[packet.EthernetLen+8])
	}
	if t.Proto == packet.ProtoTCP && p.Class == packet.Flow {
		out.TCPFlags = tcpFlags(p.TCPFlags)
	}
	return out
}

// tcpFlags writes flags as tcpdump does.
func tcpFlags(f uint8) string {
	var s strings.Builder
	for _, x := range []struct {
		bit  uint8
		name string
	}{{packet.TCPSyn, "S"}, {packet.TCPFin, "F"}, {packet.TCPRst, "R"}, {packet.TCPPsh, "P"}, {packet.TCPAck, "."}} {
		if f&x.bit != 0 {
			s.WriteString(x.name)
		}
	}
	return s.String()
}
