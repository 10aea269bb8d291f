package agent

import (
	"context"
	"net/http"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"vswitch/vswitch"
)

// snapLen is how much of each captured frame is kept: superpackets whole.
const snapLen = 1 << 17

// capture streams pcapng of a port, or of all ports, until the client hangs up.
// Each port is an interface of the file; the comment of a packet cannot be
// written by the library, so that direction is seen from the addresses.
func (n *Node) capture(ctx context.Context, w http.ResponseWriter, port string) {
	c := n.sw.Capture(port, snapLen)
	defer c.Close()
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-pcapng")
	intf := func(name string) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet, SnapLength: snapLen, TimestampResolution: 9}
	}
	first := port
	if first == "" {
		first = "overlay"
	}
	opts := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "vswitch", Comment: "node " + n.cfg.Name}}
	ng, err := pcapgo.NewNgWriterInterface(w, intf(first), opts)
	if err != nil {
		return
	}
	ids := map[string]int{first: 0}
	write := func(s vswitch.Sight) error {
		id, ok := ids[s.Port]
		if !ok {
			if id, err = ng.AddInterface(intf(s.Port)); err != nil {
				return err
			}
			ids[s.Port] = id
		}
		return ng.WritePacket(gopacket.CaptureInfo{
			Timestamp: n.wall(s.At), CaptureLength: len(s.Frame), Length: s.Len, InterfaceIndex: id,
		}, s.Frame)
	}
	for err == nil {
		// Send the file's head at once, and later whatever is there, so that a
		// reader sees packets as they come.
		if err = ng.Flush(); err != nil || rc.Flush() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case s := <-c.C:
			for err = write(s); err == nil && len(c.C) > 0; {
				err = write(<-c.C)
			}
		}
	}
}
