//go:build !linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
)

var errLinux = fmt.Errorf("a cluster of processes needs Linux; on this system, pods run in memory (--pods netstack): %w", errors.ErrUnsupported)

type holder struct{}

// Main is not supported on this system.
func Main(args []string) int {
	fmt.Fprintln(os.Stderr, "vswitch:", errLinux)
	return 1
}

// Start is not supported on this system.
func Start(ctx context.Context, o Options) (*Client, error) { return nil, errLinux }

// Open is not supported on this system.
func Open(name string) (*Client, error) { return nil, errLinux }

// List returns nothing: no cluster can run on this system.
func List() ([]string, error) { return nil, nil }

// Wait is not supported on this system.
func (c *Client) Wait() error { return errLinux }

// Close does nothing.
func (c *Client) Close() {}

// Down is not supported on this system.
func (c *Client) Down(ctx context.Context) error { return errLinux }

// Exec is not supported on this system.
func (c *Client) Exec(ctx context.Context, r ExecRequest, stdin, stdout, stderr *os.File) (int, error) {
	return 0, errLinux
}

// Doctor says that a cluster of processes needs Linux.
func Doctor() []Check {
	return []Check{{Name: "operating system", Required: true, Detail: errLinux.Error(),
		Fix: "run 'vswitch demo --pods netstack', or use a Linux virtual machine"}}
}
