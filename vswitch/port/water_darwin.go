package port

import (
	"syscall"

	"github.com/songgao/water"
)

// errBadFD is what a closed device gives.
const errBadFD = syscall.EBADF

func openWater(cfg WaterConfig) (*water.Interface, int, error) {
	dev, err := water.New(water.Config{
		DeviceType: water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{
			Name:   cfg.Name,
			Driver: water.MacOSDriverTunTapOSX, // the system's own driver has no TAP
		},
	})
	return dev, cfg.MTU, err
}
