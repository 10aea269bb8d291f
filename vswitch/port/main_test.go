package port_test

import (
	"os"
	"testing"

	"vswitch/vswitch/port/porttest"
)

func TestMain(m *testing.M) { os.Exit(porttest.Main(m)) }
