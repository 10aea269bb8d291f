package port

import (
	"syscall"

	"github.com/songgao/water"
)

// errBadFD is what a closed device gives.
const errBadFD = syscall.Errno(6) // ERROR_INVALID_HANDLE

func openWater(cfg WaterConfig) (*water.Interface, int, error) {
	dev, err := water.New(water.Config{
		DeviceType: water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{
			ComponentID:   "tap0901", // tap-windows6
			InterfaceName: cfg.Name,
		},
	})
	return dev, cfg.MTU, err
}
