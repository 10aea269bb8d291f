package port

import (
	"os"
	"runtime"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// errBadFD is what a TAP gives whose device was deleted.
const errBadFD = syscall.EBADFD

func openWater(cfg WaterConfig) (*water.Interface, int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l, err := openLink(cfg.Name)
	if err != nil {
		return nil, 0, err
	}
	defer l.close()
	fd, err := openClone()
	if err != nil {
		return nil, 0, err
	}
	err = mayCreate(fd)
	unix.Close(fd)
	if err != nil {
		return nil, 0, err
	}
	dev, err := newWater(cfg.Name)
	if err != nil {
		return nil, 0, err
	}
	l.name = dev.Name()
	mtu, err := l.setMTU(cfg.MTU)
	if err != nil {
		dev.Close()
	}
	return dev, mtu, err
}

// newWater opens the device with a descriptor that children do not inherit, and
// without the offloads that an earlier owner may have left on.
func newWater(name string) (*water.Interface, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dev, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name},
	})
	if err != nil {
		return nil, err
	}
	raw, err := dev.ReadWriteCloser.(*os.File).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			unix.CloseOnExec(int(fd))
			_ = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, 0)
		})
	}
	if err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}
