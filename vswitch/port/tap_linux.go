package port

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// TAP is a Linux TAP device with vnet headers: superpackets and unfinished
// checksums pass between the switch and the kernel as they are, one system call
// each. It is a Port and Pollable.
//
// Read and Write call the kernel without telling the Go scheduler, because they
// do not block: a write takes as long as the namespace's stack takes to receive
// the packet.
type TAP struct {
	counters
	guard Guard
	name  string
	fd    int
	mtu   int
	noUSO bool  // the kernel (before 6.2) knows no UDP superpackets
	dead  error // what Read and Write return when the device is gone
}

// Name returns the device's name.
func (t *TAP) Name() string { return t.name }

// FD implements Pollable. Closing the TAP does not wake who polls: Linux gives
// a device no way to do that, so stop polling first. A device that was deleted
// wakes it.
func (t *TAP) FD() int { return t.fd }

// MTU implements Port.
func (t *TAP) MTU() int { return t.mtu }

// Close closes the descriptor. A device that is not persistent disappears.
func (t *TAP) Close() error {
	t.guard.Shut()
	return nil
}

// SetPersist says whether the device outlives Close and the process.
func (t *TAP) SetPersist(on bool) error {
	if !t.guard.Enter() {
		return t.dead
	}
	defer t.guard.Leave()
	v := 0
	if on {
		v = 1
	}
	if err := unix.IoctlSetInt(t.fd, unix.TUNSETPERSIST, v); err != nil {
		return fmt.Errorf("tap %s: set persistence: %w", t.name, err)
	}
	return nil
}

// Read implements Port.
func (t *TAP) Read(b *packet.Batch, limit int) (int, error) {
	if !t.guard.Enter() {
		return 0, t.dead
	}
	defer t.guard.Leave()
	before := len(b.Packets)
	var err error
	for range limit {
		if b.Full() {
			break
		}
		off := b.Next()
		// One byte more than the largest frame shows a frame that is larger.
		at := b.Buf[off-vnetLen : off+packet.MaxFrame+1]
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(t.fd), uintptr(unsafe.Pointer(&at[0])), uintptr(len(at)))
		if errno != 0 {
			err = t.readError(errno)
			break
		}
		t.received(b, off, int(n)-vnetLen)
	}
	return len(b.Packets) - before, err
}

// received adds the frame of n bytes at off, behind its vnet header.
func (t *TAP) received(b *packet.Batch, off, n int) {
	switch {
	case n < packet.EthernetLen:
		t.rxShort.Add(1)
		return
	case n > packet.MaxFrame:
		t.rxLong.Add(1)
		return
	}
	h := (*[vnetLen]byte)(b.Buf[off-vnetLen:])
	if h[0]|h[1] == 0 {
		b.Add(off, n)
		return
	}
	m := packet.Packet{Len: uint32(n)}
	if !decodeVnet(h, b.Buf[off:off+n], &m) {
		t.rxInvalid.Add(1)
		return
	}
	p := b.Add(off, n)
	p.GSO, p.Flags = m.GSO, m.Flags
	p.HdrLen, p.GSOSize, p.CsumStart, p.CsumOffset = m.HdrLen, m.GSOSize, m.CsumStart, m.CsumOffset
}

// readError counts what a read returned and returns an error if the device is gone.
func (t *TAP) readError(errno unix.Errno) error {
	switch errno {
	case unix.EAGAIN, unix.EINTR:
		return nil
	case unix.EBADFD, unix.EBADF, unix.ENODEV, unix.ENXIO:
		return t.dead
	}
	t.rxErrors.Add(1)
	return nil
}

// Write implements Port. It may be called by several workers at once: the
// kernel takes care of that.
func (t *TAP) Write(b *packet.Batch, idx []uint16) (int, error) {
	if !t.guard.Enter() {
		return 0, t.dead
	}
	defer t.guard.Leave()
	sent := 0
	var err error
	for _, i := range idx {
		p := &b.Packets[i]
		if !t.fits(p, t.mtu) {
			continue
		}
		errno := t.send(b, p)
		if errno == 0 {
			sent++
			continue
		}
		if err = t.writeError(errno); err != nil {
			break
		}
	}
	return sent, err
}

// writeError counts a packet that was not sent and returns an error if the
// device is gone.
func (t *TAP) writeError(errno unix.Errno) error {
	switch errno {
	case unix.EIO: // the interface is down (tun_get_user in drivers/net/tun.c)
		t.txDown.Add(1)
	case unix.EINVAL:
		t.txInvalid.Add(1)
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		t.txFull.Add(1)
	case unix.EBADFD, unix.EBADF, unix.ENODEV, unix.ENXIO:
		return t.dead
	default:
		t.txErrors.Add(1)
	}
	return nil
}

// send writes one packet. The vnet header takes the place of the bytes before
// the frame, which may belong to the packet before, and are put back.
func (t *TAP) send(b *packet.Batch, p *packet.Packet) (errno unix.Errno) {
	if p.GSO == packet.GSOUDPL4 && t.noUSO {
		return t.sendCut(b, p)
	}
	h := (*[vnetLen]byte)(b.Buf[p.Off-vnetLen:])
	saved := *h
	encodeVnet(h, p)
	if p.Stride != 0 {
		errno = t.sendTrain(b, p)
	} else {
		f := b.Buf[p.Off-vnetLen : p.Off+p.Len]
		_, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(t.fd), uintptr(unsafe.Pointer(&f[0])), uintptr(len(f)))
	}
	*h = saved
	return errno
}

// maxTrain is the number of segments that one gathered write takes: what UDP
// GRO merges at most (UDP_GRO_CNT_MAX, 64), twice.
const maxTrain = 128

// sendTrain writes a train, whose vnet header is in place, as one gathered write.
func (t *TAP) sendTrain(b *packet.Batch, p *packet.Packet) unix.Errno {
	n := p.Segments()
	if n > maxTrain {
		b.Linearize(p)
		f := b.Buf[p.Off-vnetLen : p.Off+p.Len]
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(t.fd), uintptr(unsafe.Pointer(&f[0])), uintptr(len(f)))
		return errno
	}
	var iov [1 + maxTrain]unix.Iovec
	iov[0].Base = &b.Buf[p.Off-vnetLen]
	iov[0].SetLen(vnetLen + int(p.HdrLen))
	at := int(p.Off) + int(p.HdrLen)
	left := int(p.Len) - int(p.HdrLen)
	for i := 1; i <= n; i++ {
		size := min(left, int(p.GSOSize))
		seg := b.Buf[at : at+size]
		iov[i].Base = &seg[0]
		iov[i].SetLen(size)
		at += int(p.Stride)
		left -= size
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(t.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(1+n))
	return errno
}

// maxCutHeader bounds the headers of what sendCut takes: IPv6 with a few
// extension headers.
const maxCutHeader = 246

// sendCut writes a UDP superpacket as the datagrams that it is, for kernels
// that do not take it whole. The checksums stay partial.
func (t *TAP) sendCut(b *packet.Batch, p *packet.Packet) unix.Errno {
	var head [vnetLen + maxCutHeader]byte
	if p.HdrLen > maxCutHeader {
		return unix.EINVAL
	}
	encodeVnet((*[vnetLen]byte)(head[:]), &packet.Packet{Flags: packet.NeedsCsum, CsumStart: p.HdrLen - 8, CsumOffset: 6})
	var iov [2]unix.Iovec
	c := b.Cut(p, true)
	result := unix.EINVAL // of a superpacket that has no segments
	for {
		n, payload, ok := c.Next(head[vnetLen:])
		if !ok {
			return result
		}
		iov[0].Base = &head[0]
		iov[0].SetLen(vnetLen + n)
		iov[1].Base = unsafe.SliceData(payload)
		iov[1].SetLen(len(payload))
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(t.fd), uintptr(unsafe.Pointer(&iov[0])), 2)
		if errno != 0 {
			return errno
		}
		result = 0
	}
}
