package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"vswitch/vswitch/lab"
)

// demoProcess is the first argument with which this program is a process in a
// pod of the demo.
const demoProcess = "demo-process"

// hidden runs what this program is to itself, in other namespaces, and not to
// its user: the processes of a cluster and of the demo's pods.
func hidden(args []string) (code int, done bool) {
	if len(args) < 2 {
		return 0, false
	}
	switch args[1] {
	case lab.Subcommand:
		return lab.Main(args[2:]), true
	case demoProcess:
		if err := runDemoProcess(args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// runDemoProcess is: serve NAME | call ADDR | stream ADDR BYTES. A stream
// prints "half" when it is halfway through, and waits for a line.
func runDemoProcess(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%s: arguments are missing", demoProcess)
	}
	if args[0] == "serve" {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", demoPort))
		if err != nil {
			return err
		}
		answer(l, args[1])
		return nil
	}
	to, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: 3 * time.Second}
	ctx := context.Background()
	switch {
	case args[0] == "call":
		line, err := call(ctx, d.DialContext, to)
		if err != nil {
			return err
		}
		fmt.Println(line)
		return nil
	case args[0] == "stream" && len(args) == 3:
		n, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		return stream(ctx, d.DialContext, to, n, func() {
			fmt.Println("half")
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // closed: nobody wants to wait
		})
	}
	return fmt.Errorf("%s: %q is not known", demoProcess, args)
}
