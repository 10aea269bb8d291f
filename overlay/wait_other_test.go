//go:build !linux

package overlay

import (
	"testing"

	"vswitch/vswitch/port"
)

func waiter(_ testing.TB, p port.Port) func() bool { return bell(p.(port.Notifier)) }
