package agent

import (
	"bytes"
	"encoding/binary"
	"io"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"vswitch/vswitch"
)

// PcapngWriter writes sights as a pcapng file of one section, in which every
// port is an interface. It is for one goroutine at a time. What is written
// arrives at the underlying writer with Flush.
type PcapngWriter struct {
	w       io.Writer
	ng      *pcapgo.NgWriter // writes section and interfaces
	comment string
	snap    int
	blocks  bytes.Buffer // packets since the last flush
}

// NewPcapngWriter returns a writer for packets of which at most snap bytes are
// kept. The comment is the section's. Nothing is written before the first
// interface is.
func NewPcapngWriter(w io.Writer, comment string, snap int) *PcapngWriter {
	return &PcapngWriter{w: w, comment: comment, snap: snap}
}

// Interface adds an interface and returns its number in the file.
func (p *PcapngWriter) Interface(name, comment string) (id int, err error) {
	if err := p.Flush(); err != nil {
		return 0, err
	}
	intf := pcapgo.NgInterface{
		Name: name, Comment: comment, LinkType: layers.LinkTypeEthernet,
		SnapLength: uint32(p.snap), TimestampResolution: 9,
	}
	if p.ng != nil {
		return p.ng.AddInterface(intf)
	}
	p.ng, err = pcapgo.NewNgWriterInterface(p.w, intf, pcapgo.NgWriterOptions{
		SectionInfo: pcapgo.NgSectionInfo{Application: "vswitch", Comment: p.comment},
	})
	return 0, err
}

// Numbers of the pcapng format (draft-ietf-opsawg-pcapng, sections 4.3 and 3.5).
const (
	pcapngPacket  = 6 // enhanced packet block
	pcapngFlags   = 2 // its option epb_flags
	pcapngInbound = 1 // the bits of epb_flags for the direction
	pcapngOut     = 2
)

// Packet writes a sight at an interface, seen at that time. A frame that came
// in by a port is inbound: its direction is the switch's. The library cannot
// write options of packets, so that this block is written here.
func (p *PcapngWriter) Packet(id int, at time.Time, s vswitch.Sight) {
	pad := -len(s.Frame) & 3
	length := uint32(28 + len(s.Frame) + pad + 12 + 4)
	direction := uint32(pcapngInbound)
	if s.Out {
		direction = pcapngOut
	}
	le, ns := binary.LittleEndian, uint64(at.UnixNano())
	b := p.blocks.AvailableBuffer()
	for _, v := range []uint32{pcapngPacket, length, uint32(id), uint32(ns >> 32), uint32(ns), uint32(len(s.Frame)), uint32(s.Len)} {
		b = le.AppendUint32(b, v)
	}
	b = append(append(b, s.Frame...), make([]byte, pad)...)
	b = le.AppendUint16(b, pcapngFlags)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint32(b, direction)
	b = le.AppendUint32(b, 0) // the end of the options
	p.blocks.Write(le.AppendUint32(b, length))
}

// Flush hands on all that was written.
func (p *PcapngWriter) Flush() error {
	if p.ng != nil {
		if err := p.ng.Flush(); err != nil {
			return err
		}
	}
	_, err := p.blocks.WriteTo(p.w)
	return err
}
