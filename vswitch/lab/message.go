package lab

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// message is what a command and the processes of the cluster that it starts
// tell each other, over a socket pair that lives as long as both do.
type message struct {
	// From the command.
	Mapped  bool     `json:"mapped,omitempty"` // the ids of the user namespace are mapped
	Options *Options `json:"options,omitempty"`
	Detach  bool     `json:"detach,omitempty"` // the cluster outlives the command

	// From the cluster.
	Line  string `json:"line,omitempty"` // progress
	Ready bool   `json:"ready,omitempty"`
	Error string `json:"error,omitempty"` // the cluster is going down
	Input bool   `json:"input,omitempty"` // the error is one of the input
}

// maxMessage bounds a message, bytes: manifests of a large cluster.
const maxMessage = 1 << 30

// writeMessage writes a length, four bytes big-endian, and as much JSON.
func writeMessage(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("message of %d bytes is too long", len(data))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

// readMessage reads what writeMessage wrote, and nothing beyond it.
func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes is too long", n)
	}
	// Not all at once: the length is not to be trusted with memory.
	data, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(data) < int(n) {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(data, v)
}
