package packet

// Linearize makes a train contiguous in place: it moves every payload up to the
// one before. For receivers that can take only one piece of memory; whoever
// can gather should not pay for the copy.
func (b *Batch) Linearize(p *Packet) {
	if p.Stride == 0 {
		return
	}
	size, stride := int(p.GSOSize), int(p.Stride)
	from := int(p.Off) + int(p.HdrLen) + stride
	to := int(p.Off) + int(p.HdrLen) + size
	for left := int(p.Len) - int(p.HdrLen) - size; left > 0; left -= size {
		n := min(left, size)
		copy(b.Buf[to:to+n], b.Buf[from:from+n])
		from += stride
		to += size
	}
	p.Stride = 0
}
