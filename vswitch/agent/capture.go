package agent

import (
	"context"
	"net/http"

	"vswitch/vswitch"
)

// snapLen is how much of each captured frame is kept: superpackets whole.
const snapLen = 1 << 17

// capture streams pcapng of a port, or of all ports, until the client hangs up.
// Each port is an interface of the file.
func (n *Node) capture(ctx context.Context, w http.ResponseWriter, port string) {
	c := n.sw.Capture(port, snapLen)
	defer c.Close()
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-pcapng")
	first := port
	if first == "" {
		first = "overlay"
	}
	ng := NewPcapngWriter(w, "node "+n.cfg.Name, snapLen)
	ids := map[string]int{}
	write := func(s vswitch.Sight) (err error) {
		id, ok := ids[s.Port]
		if !ok {
			if id, err = ng.Interface(s.Port, ""); err != nil {
				return err
			}
			ids[s.Port] = id
		}
		ng.Packet(id, n.wall(s.At), s)
		return nil
	}
	_, err := ng.Interface(first, "") // a file without one has no head
	ids[first] = 0
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
