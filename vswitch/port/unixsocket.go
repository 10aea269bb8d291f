package port

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
)

// removeStale removes the socket file that a process which died has left at
// path. It refuses to take the path from one that lives.
//
// It asks with a datagram socket, whichever the other one is: to a stream
// socket that lives, the kernel answers EPROTOTYPE and its owner notices
// nothing. A connection would take the place of the machine that is connected.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: remove it, or choose another path", path)
	}
	network := "unixgram"
	if runtime.GOOS == "windows" {
		network = "unix" // it has no others
	}
	c, err := net.Dial(network, path)
	switch {
	case err == nil:
		c.Close()
	case errors.Is(err, syscall.ECONNREFUSED), runtime.GOOS == "windows":
		return os.Remove(path)
	case errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.EPERM): // a stream; connected to somebody else
	default:
		return err
	}
	return fmt.Errorf("%s is in use by another process: end it, or choose another path", path)
}
