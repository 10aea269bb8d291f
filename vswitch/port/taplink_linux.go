package port

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// TAPConfig describes a TAP device.
type TAPConfig struct {
	// Name is the device's name, at most 15 bytes; a %d in it becomes the first
	// free number. A device of that name that
	// exists, persistent and not open elsewhere, is taken over.
	Name string
	// MTU of the device in bytes; 0 keeps what the device has.
	MTU int
	// Persist keeps the device, and with it the pod's addresses, routes and
	// connections, when the TAP is closed or the process dies.
	Persist bool
}

// Offloads of a TAP (include/uapi/linux/if_tun.h): the kernel hands over what
// it would otherwise cut and sum.
const (
	tcpOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	udpOffloads = unix.TUN_F_USO4 | unix.TUN_F_USO6 // both or none; Linux 6.2
)

const clonePath = "/dev/net/tun"

// OpenTAP creates the device, or takes it over, in the network namespace of the
// calling thread, which needs CAP_NET_ADMIN there: lock the goroutine to its
// thread if that is not the process's. The TAP may then be used from any
// thread. A new interface is down, has no address, and keeps 1000 packets for
// Read before it drops (txqueuelen, which only netlink can change in a user
// namespace).
func OpenTAP(cfg TAPConfig) (*TAP, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t, err := openTAP(cfg)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", cfg.Name, err)
	}
	return t, nil
}

func openTAP(cfg TAPConfig) (*TAP, error) {
	l, err := openLink(cfg.Name)
	if err != nil {
		return nil, err
	}
	defer l.close()
	fd, err := openClone()
	if err != nil {
		return nil, err
	}
	t := &TAP{name: cfg.Name, fd: fd, dead: fmt.Errorf("tap %s: %w", cfg.Name, ErrClosed)}
	t.guard.Free = func() { unix.Close(fd) }
	if err := t.attach(l, cfg); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// attach makes the device, gives it to t's descriptor and sets it up. What it
// made disappears with the descriptor if it fails.
func (t *TAP) attach(l *link, cfg TAPConfig) (err error) {
	created := !l.exists()
	if created {
		if err := mayCreate(t.fd); err != nil {
			return err
		}
		if l.name, err = createTAP(cfg.Name); err != nil {
			return err
		}
		t.name = l.name
	}
	// For a device that exists, TUNSETIFF replaces the flags, so that what was
	// created plain gets vnet headers (tun_set_iff in drivers/net/tun.c).
	if err := tunSetIff(t.fd, t.name, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR); err != nil {
		return err
	}
	if created {
		if err := t.SetPersist(false); err != nil {
			return err
		}
	}
	if err := t.offload(); err != nil {
		return err
	}
	if t.mtu, err = l.setMTU(cfg.MTU); err != nil {
		return err
	}
	if created != cfg.Persist {
		return nil
	}
	return t.SetPersist(cfg.Persist)
}

// offload tells the kernel what it may leave undone.
func (t *TAP) offload() error {
	if err := unix.IoctlSetPointerInt(t.fd, unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return fmt.Errorf("vnet header of %d bytes: %w", vnetLen, err)
	}
	if unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, tcpOffloads|udpOffloads) == nil {
		return nil
	}
	t.noUSO = true
	if err := unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, tcpOffloads); err != nil {
		return fmt.Errorf("TCP offloads: %w", err)
	}
	return nil
}

// createTAP makes a plain, persistent TAP device, closes it again and returns
// its name.
func createTAP(name string) (string, error) {
	// The library's descriptor is not close-on-exec. A child that inherited it
	// would keep the device busy.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	w, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, Persist: true},
	})
	if err != nil {
		return "", fmt.Errorf("create: %w", err)
	}
	return w.Name(), w.Close()
}

// openClone opens the device that TAPs are made from.
func openClone() (int, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("open %s: %w: load the kernel module (modprobe tun), or give the container the device", clonePath, err)
	case errors.Is(err, fs.ErrPermission):
		return -1, fmt.Errorf("open %s: %w: make it writable for this user (chmod 0666 %s), or allow the device in the container", clonePath, err, clonePath)
	}
	return -1, fmt.Errorf("open %s: %w", clonePath, err)
}

// mayCreate asks for a device without a type, which is refused in any case, but
// with EPERM only where the thread may create none.
func mayCreate(fd int) error {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if errors.Is(unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr), unix.EPERM) {
		return errNotAdmin
	}
	return nil
}

var errNotAdmin = errors.New("this thread lacks CAP_NET_ADMIN in its network namespace: run as root, or in a user namespace that owns it")

// tunSetIff attaches fd to the device.
func tunSetIff(fd int, name string, flags uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(flags)
	kind := "TAP"
	if flags&unix.IFF_TUN != 0 {
		kind = "TUN"
	}
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach: %w: another process holds the device; end it, or choose another name", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach: %w: an interface of that name exists and is no single-queue %s; delete it, or choose another name", err, kind)
	case errors.Is(err, unix.EPERM):
		return errNotAdmin
	}
	return fmt.Errorf("attach: %w", err)
}

// link sets attributes of an interface through ioctls (netdevice(7)), in the
// network namespace in which it was opened.
type link struct {
	fd   int
	name string
}

func openLink(name string) (*link, error) {
	if _, err := unix.NewIfreq(name); err != nil || name == "" {
		return nil, fmt.Errorf("%q is no interface name: 1 to %d bytes are", name, unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &link{fd, name}, nil
}

func (l *link) close() { unix.Close(l.fd) }

func (l *link) exists() bool {
	_, err := l.get(unix.SIOCGIFINDEX)
	return err == nil
}

func (l *link) get(req uint) (uint32, error) {
	ifr, err := unix.NewIfreq(l.name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(l.fd, req, ifr); err != nil {
		return 0, err
	}
	return ifr.Uint32(), nil
}

// setMTU sets the MTU unless it is 0, and returns what the interface has.
func (l *link) setMTU(mtu int) (int, error) {
	if mtu == 0 {
		v, err := l.get(unix.SIOCGIFMTU)
		if err != nil {
			return 0, fmt.Errorf("read MTU: %w", err)
		}
		return int(v), nil
	}
	ifr, err := unix.NewIfreq(l.name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint32(uint32(mtu))
	if err := unix.IoctlIfreq(l.fd, unix.SIOCSIFMTU, ifr); err != nil {
		return 0, fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	return mtu, nil
}
