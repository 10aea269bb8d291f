package port

import (
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// createTUN makes the device or takes it over. The library's own way would set
// the MTU even where it is right, which the owner of a device may not, and its
// errors name no cause.
func createTUN(name string, mtu int) (tun.Device, error) {
	if name == "" {
		name = "tun%d"
	}
	l, err := openLink(name)
	if err != nil {
		return nil, err
	}
	defer l.close()
	fd, err := openClone()
	if err != nil {
		return nil, err
	}
	if !l.exists() {
		err = mayCreate(fd)
	}
	if err == nil {
		err = tunSetIff(fd, name, unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	// From here on the descriptor is the library's, which closes it also if it
	// fails.
	dev, name, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, err
	}
	l.name = name
	if have, err := l.setMTU(0); err != nil || have != mtu {
		if _, err = l.setMTU(mtu); err != nil {
			dev.Close()
			return nil, err
		}
	}
	return dev, nil
}
