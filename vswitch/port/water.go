//go:build linux || darwin || windows

package port

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/songgao/water"

	"vswitch/vswitch/packet"
)

// WaterConfig describes a plain TAP device.
type WaterConfig struct {
	// Name of the device: of the TAP on Linux, tapN of tuntaposx on macOS,
	// the adapter's name on Windows.
	Name string
	// MTU in bytes; 0 is what the device has on Linux, else 1500. On Linux the
	// device gets it; elsewhere it must be what the device has.
	MTU int
}

// Water is a TAP device without offloads, one frame each system call, through
// the portable library of that name: for kernels and systems that have no vnet
// headers. It needs tap-windows6 on Windows and tuntaposx on macOS. It is a
// Port and a Notifier.
type Water struct {
	pump
	dev *water.Interface
}

// OpenWater creates the device, on Linux in the network namespace of the
// calling thread.
func OpenWater(cfg WaterConfig) (*Water, error) {
	dev, mtu, err := openWater(cfg)
	if err != nil {
		return nil, fmt.Errorf("plain tap %s: %w", cfg.Name, err)
	}
	w := &Water{dev: dev}
	w.init(mtu)
	w.up.Store(true)
	go w.receive()
	go w.send()
	return w, nil
}

// Name returns the device's name.
func (w *Water) Name() string { return w.dev.Name() }

// Close closes the device.
func (w *Water) Close() error {
	w.end(true)
	if err := w.dev.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// waterErrors in a row mean that a device fails for good.
const waterErrors = 1000

func (w *Water) receive() {
	defer w.end(false)
	buf := make([]byte, packet.MaxFrame+1)
	for failed := 0; failed < waterErrors; {
		n, err := w.dev.Read(buf)
		switch {
		case err == nil:
			failed = 0
			if !w.deliver(buf[:n]) {
				return
			}
		case gone(err):
			return
		default:
			failed++
			w.rxErrors.Add(1)
		}
	}
}

// gone reports whether the device will never work again.
func gone(err error) bool {
	return errors.Is(err, os.ErrClosed) || errors.Is(err, errBadFD) || errors.Is(err, syscall.ENODEV)
}

func (w *Water) send() {
	var f burst
	f.init()
	for w.next(f.add) && f.take(w.write) {
	}
}

// write sends one frame and reports whether the device still works.
func (w *Water) write(frame []byte) bool {
	_, err := w.dev.Write(frame)
	switch {
	case err == nil:
	case gone(err):
		w.end(false)
		return false
	case errors.Is(err, syscall.EIO):
		w.txDown.Add(1)
	case errors.Is(err, syscall.EINVAL):
		w.txInvalid.Add(1)
	default:
		w.txErrors.Add(1)
	}
	return true
}
