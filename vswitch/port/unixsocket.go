package port

import (
	"fmt"
	"net"
	"os"
)

// removeStale removes the socket file that a process which died has left at
// path. It refuses to take the path from one that lives.
func removeStale(network, path string) error {
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
	if c, err := net.Dial(network, path); err == nil {
		c.Close()
		return fmt.Errorf("%s is in use by another process: end it, or choose another path", path)
	}
	return os.Remove(path)
}
