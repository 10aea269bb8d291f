package agent

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"vswitch/vswitch"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// TestCapture reads a capture while packets come, from two ports.
func TestCapture(t *testing.T) {
	sw, err := vswitch.New(vswitch.Config{Inline: true, MaxFlows: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	ends := map[string]*port.PipeEnd{}
	for _, name := range []string{"x/a", "x/b"} {
		near, far := port.Pipe(1500)
		if _, err := sw.Attach(name, near); err != nil {
			t.Fatal(err)
		}
		ends[name] = far
	}
	n := &Node{sw: sw}
	n.cfg.Name = "node1"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.capture(r.Context(), w, "") }))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	// The head comes at once; what is read then is captured.
	r, err := pcapgo.NewNgReader(resp.Body, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.SectionInfo().Comment; got != "node node1" {
		t.Errorf("the comment is %q", got)
	}
	b := packet.NewBatch()
	for i, name := range []string{"x/a", "x/b", "x/a"} {
		frame := bytes.Repeat([]byte{byte(i + 1)}, 61+i) // paddings differ
		b.Reset()
		b.Append(frame)
		if k, err := ends[name].Write(b, []uint16{0}); k != 1 || err != nil {
			t.Fatalf("write: %d, %v", k, err)
		}
		sw.Step()
		data, ci, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		intf, err := r.Interface(ci.InterfaceIndex)
		if err != nil || intf.Name != name || !bytes.Equal(data, frame) || ci.Length != len(frame) {
			t.Errorf("packet %d: %d bytes at %s (%v), want %d at %s", i, ci.Length, intf.Name, err, len(frame), name)
		}
		if off := time.Since(ci.Timestamp); off.Abs() > time.Minute {
			t.Errorf("packet %d was seen %s ago", i, off)
		}
	}
}
