package port_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
	"vswitch/vswitch/port/porttest"
)

// socketPeer is the kernel's side of a device: a packet socket on the
// interface, which gets and gives offload headers as the device does.
type socketPeer struct {
	fd   int
	l3   bool // no Ethernet header on the device
	caps porttest.Caps
	buf  []byte
	drop func() // what ends the device, for Close
}

const vnetLen = 10

// newSocketPeer brings the interface up and listens on it.
func newSocketPeer(t testing.TB, name string, l3 bool, caps porttest.Caps) *socketPeer {
	t.Helper()
	setFlags(t, name, unix.IFF_UP)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("packet socket: %v", err)
	}
	p := &socketPeer{fd: fd, l3: l3, caps: caps, buf: make([]byte, 1<<17)}
	for _, o := range []struct {
		level, opt, value int
		must              bool
	}{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1, true},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1, true},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, 4 << 20, false},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil && o.must {
			t.Fatalf("packet socket option %d: %v", o.opt, err)
		}
	}
	addr := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifIndex(t, name)}
	if err := unix.Bind(fd, addr); err != nil {
		t.Fatalf("bind packet socket to %s: %v", name, err)
	}
	return p
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (p *socketPeer) Caps() porttest.Caps { return p.caps }

func (p *socketPeer) Close() error {
	if p.fd >= 0 {
		unix.Close(p.fd)
		p.fd = -1
	}
	if p.drop != nil {
		p.drop()
	}
	return nil
}

func (p *socketPeer) Send(f porttest.Frame) error {
	var h [vnetLen]byte
	data, skip := f.Data, 0
	if p.l3 {
		data, skip = data[packet.EthernetLen:], packet.EthernetLen
	}
	m := &f.Meta
	if m.Flags&packet.NeedsCsum != 0 {
		h[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
		binary.NativeEndian.PutUint16(h[6:], m.CsumStart-uint16(skip))
		binary.NativeEndian.PutUint16(h[8:], m.CsumOffset)
	}
	if m.GSO != packet.GSONone {
		h[1] = byte(m.GSO)
		binary.NativeEndian.PutUint16(h[2:], m.HdrLen-uint16(skip))
		binary.NativeEndian.PutUint16(h[4:], m.GSOSize)
	}
	return p.raw(append(h[:], data...))
}

// raw sends a vnet header and a packet. A device that takes no more for now is
// no error: the kernel drops, too.
func (p *socketPeer) raw(b []byte) error {
	_, err := unix.Write(p.fd, b)
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

func (p *socketPeer) Recv(wait time.Duration) (porttest.Frame, bool) {
	for end := time.Now().Add(wait); ; {
		n, from, err := unix.Recvfrom(p.fd, p.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err == nil {
			if ll := from.(*unix.SockaddrLinklayer); ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			if f := p.frame(p.buf[:n]); porttest.Ours(f.Data) {
				return f, true
			}
			continue
		}
		left := time.Until(end)
		if left <= 0 {
			return porttest.Frame{}, false
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
	}
}

// frame decodes what the socket gave, b.
func (p *socketPeer) frame(b []byte) porttest.Frame {
	h, data := b[:vnetLen], b[vnetLen:]
	skip := 0
	if p.l3 {
		skip = packet.EthernetLen
		header := make([]byte, skip)
		copy(header, porttest.PeerMAC[:])
		copy(header[6:], porttest.PortMAC[:])
		binary.BigEndian.PutUint16(header[12:], 0x0800)
		if data[0]>>4 == 6 {
			binary.BigEndian.PutUint16(header[12:], 0x86dd)
		}
		data = append(header, data...)
	} else {
		data = append([]byte{}, data...)
	}
	m := packet.Packet{Len: uint32(len(data))}
	if h[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
		m.Flags = packet.NeedsCsum
		m.CsumStart = binary.NativeEndian.Uint16(h[6:]) + uint16(skip)
		m.CsumOffset = binary.NativeEndian.Uint16(h[8:])
	}
	if h[1] != 0 {
		m.GSO = packet.GSO(h[1])
		m.GSOSize = binary.NativeEndian.Uint16(h[4:])
		// The kernel's header length is that of its linear part.
		l4 := int(m.CsumStart)
		m.HdrLen = uint16(l4 + 8)
		if m.GSO.Kind() != packet.GSOUDPL4 {
			m.HdrLen = uint16(l4 + int(data[l4+12]>>4)*4)
		}
	}
	return porttest.Frame{Data: data, Meta: m}
}

// Interface settings by ioctl (netdevice(7)).

func ioctl(t testing.TB, name string, req uint, set func(*unix.Ifreq)) *unix.Ifreq {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(r)
	}
	if err := unix.IoctlIfreq(fd, req, r); err != nil {
		t.Fatalf("%s: ioctl %#x: %v", name, req, err)
	}
	return r
}

func setFlags(t testing.TB, name string, flags uint16) {
	t.Helper()
	ioctl(t, name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(flags) })
}

func ifIndex(t testing.TB, name string) int {
	t.Helper()
	return int(ioctl(t, name, unix.SIOCGIFINDEX, nil).Uint32())
}

var devices int

// deviceName returns a name that no other test has.
func deviceName(prefix string) string {
	devices++
	return fmt.Sprintf("%s%d", prefix, devices)
}

// deviceCaps is what the kernel's devices have in common.
var deviceCaps = porttest.Caps{Lossy: true, MaxMTU: 65520}

// tapPeer adds what a pod with a packet socket of its own may do.
type tapPeer struct{ *socketPeer }

func openTAP(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	tap, err := port.OpenTAP(port.TAPConfig{Name: deviceName("tap"), MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	caps := deviceCaps
	caps.Offload, caps.Whole = true, true
	return tap, tapPeer{newSocketPeer(t, tap.Name(), false, caps)}
}

// Nonsense sends superpackets whose header asks for the impossible, as far as
// the kernel lets them pass.
func (p tapPeer) Nonsense(t *testing.T) uint64 {
	tiny := func(size uint16) []byte {
		f := make([]byte, vnetLen+14+20+20+1100)
		h, eth := f[:vnetLen], f[vnetLen:]
		h[0], h[1] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV4
		binary.NativeEndian.PutUint16(h[2:], 54)
		binary.NativeEndian.PutUint16(h[4:], size)
		binary.NativeEndian.PutUint16(h[6:], 34)
		binary.NativeEndian.PutUint16(h[8:], 16)
		eth[12] = 8
		ip := eth[14:]
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		copy(ip[12:], []byte{10, 99, 0, 9, 10, 99, 0, 8})
		ip[20+12] = 5 << 4
		return f
	}
	// 1100 segments of one byte: too many.
	if err := p.raw(tiny(1)); err != nil {
		t.Fatalf("superpacket with segments of a byte: %v", err)
	}
	return 1
}

func openWater(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	w, err := port.OpenWater(port.WaterConfig{Name: deviceName("plain"), MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	caps := deviceCaps
	caps.Offload = true // on the kernel's side: it cuts and completes for the device
	return w, newSocketPeer(t, w.Name(), false, caps)
}

func openTUN(t *testing.T, mtu int) (port.Port, porttest.Peer) {
	p, err := port.OpenTUN(port.TUNConfig{
		Name: deviceName("tun"), MTU: mtu, HostMAC: porttest.PeerMAC, GatewayMAC: porttest.PortMAC,
	})
	if err != nil {
		t.Fatal(err)
	}
	caps := deviceCaps
	caps.Offload, caps.Joins = true, true // the library cuts and joins
	return p, newSocketPeer(t, p.Name(), true, caps)
}

func TestTAP(t *testing.T) {
	porttest.Namespaced(t)
	porttest.Run(t, openTAP)
}

func TestWater(t *testing.T) {
	porttest.Namespaced(t)
	porttest.Run(t, openWater)
}

func TestTUN(t *testing.T) {
	porttest.Namespaced(t)
	porttest.Run(t, openTUN)
}
