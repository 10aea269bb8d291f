//go:build linux || darwin || windows || freebsd

package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"

	"vswitch/vswitch/packet"
)

// TUNConfig describes a TUN device.
type TUNConfig struct {
	// Name of the device. Empty: the system's choice. macOS wants utunN. On Linux
	// a device of that name that exists, persistent and not open elsewhere, is
	// taken over, by its owner even without CAP_NET_ADMIN; it stays when the
	// port is closed.
	Name string
	// MTU in bytes; 0 is 1500.
	MTU int
	// HostMAC is the source of the frames that come from the device: the
	// address that the switch knows the other end by.
	HostMAC [6]byte
	// GatewayMAC is their destination: the switch's own address, so that it
	// routes them.
	GatewayMAC [6]byte
}

// TUN is an L3 device: a Linux or FreeBSD TUN, a macOS utun, or Wintun on
// Windows. It has no Ethernet; the header is added on the way in and taken off
// on the way out, whatever its addresses. Frames other than IP are dropped as
// TxInvalid. It is a Port and a Notifier.
type TUN struct {
	pump
	dev    tun.Device
	name   string
	header [packet.EthernetLen]byte // of received frames, but for the EtherType
}

// OpenTUN creates the device, on Linux in the network namespace of the calling
// thread. The interface is left down and without an address where the system
// leaves that to others.
func OpenTUN(cfg TUNConfig) (*TUN, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	name := cfg.Name
	if name == "" {
		switch runtime.GOOS {
		case "darwin":
			name = "utun"
		case "windows":
			name = "vswitch"
		case "freebsd":
			name = "tun"
		}
	}
	dev, err := createTUN(name, cfg.MTU)
	if err != nil {
		return nil, fmt.Errorf("tun %s: %w", cfg.Name, err)
	}
	return NewTUN(dev, cfg), nil
}

// NewTUN makes a port of an L3 device that exists, and owns it from now on. It
// must not be a TAP: with vnet headers, the library would read a MAC address as
// an IP version.
func NewTUN(dev tun.Device, cfg TUNConfig) *TUN {
	t := &TUN{dev: dev}
	if t.name, _ = dev.Name(); t.name == "" {
		t.name = cfg.Name
	}
	copy(t.header[0:6], cfg.GatewayMAC[:])
	copy(t.header[6:12], cfg.HostMAC[:])
	t.init(cfg.MTU)
	t.ipOnly = true
	t.up.Store(true)
	go t.receive()
	go t.send()
	go func() {
		// Nobody here acts on events, but the device blocks if they are not taken.
		for range dev.Events() {
		}
	}()
	return t
}

// Name returns the device's name.
func (t *TUN) Name() string { return t.name }

// Close closes the device, which disappears unless it is persistent.
func (t *TUN) Close() error {
	t.end(true)
	return t.dev.Close()
}

const (
	// tunOffset is where a packet lies in its buffer: behind room for the
	// Ethernet header, and on the way out for what the library puts there
	// (a vnet header of 10 bytes on Linux, 4 bytes of family on macOS).
	tunOffset = 16
	// tunBurst is how many packets are sent with one call, so that the library
	// can join those of one flow.
	tunBurst = 64
	// tunErrors in a row mean that a device fails for good.
	tunErrors = 1000
)

func (t *TUN) receive() {
	defer t.end(false)
	n, room := t.dev.BatchSize(), t.mtu
	if n == 1 {
		room = packet.MaxIP // whatever MTU the device gets later
	}
	bufs, sizes := make([][]byte, n), make([]int, n)
	for i := range bufs {
		bufs[i] = make([]byte, tunOffset+room)
	}
	for failed := 0; failed < tunErrors; {
		n, err := t.dev.Read(bufs, sizes, tunOffset)
		failed++
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil { // a packet that could not be cut, or that is too large
			t.rxErrors.Add(1)
		}
		for i := range n {
			failed = 0
			if !t.deliverIP(bufs[i][:tunOffset+sizes[i]]) {
				return
			}
		}
	}
}

// deliverIP gives Read the packet at tunOffset of buf, behind an Ethernet header.
func (t *TUN) deliverIP(buf []byte) bool {
	frame := buf[tunOffset-packet.EthernetLen:]
	copy(frame, t.header[:]) // each time: the BSDs put the family in its place
	if len(buf) == tunOffset {
		t.rxShort.Add(1)
		return true
	}
	switch buf[tunOffset] >> 4 {
	case 4:
		binary.BigEndian.PutUint16(frame[12:14], packet.EtherTypeIPv4)
	case 6:
		binary.BigEndian.PutUint16(frame[12:14], packet.EtherTypeIPv6)
	default:
		t.rxInvalid.Add(1)
		return true
	}
	return t.deliver(frame)
}

func (t *TUN) send() {
	// The library joins packets by appending to the first one of a flow where
	// that has room. Pages that are never appended to are never touched.
	room := t.mtu
	if t.dev.BatchSize() > 1 {
		room = packet.MaxIP
	}
	store := make([][]byte, tunBurst)
	for i := range store {
		store[i] = make([]byte, tunOffset+room)
	}
	bufs := make([][]byte, 0, tunBurst)
	gather := func(frame []byte) bool {
		if len(bufs) == cap(bufs) {
			return false
		}
		ip := frame[packet.EthernetLen:]
		buf := store[len(bufs)]
		bufs = append(bufs, buf[:tunOffset+copy(buf[tunOffset:], ip)])
		return true
	}
	for t.next(gather) {
		_, err := t.dev.Write(bufs, tunOffset)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrClosed):
			t.end(false)
			return
		case errors.Is(err, syscall.EIO):
			t.txDown.Add(1)
		case errors.Is(err, syscall.EINVAL):
			t.txInvalid.Add(1)
		default:
			t.txErrors.Add(1)
		}
		bufs = bufs[:0]
	}
}
