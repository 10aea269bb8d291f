package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
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

// runDemoProcess is one of
//
//	serve NAME              a pod that answers its name
//	call ADDR [N LIMIT]     ask N times, once if not said, and print replies
//	lookup TYPE NAME        print what the name leads to
//	load ADDR               send requests until standard input ends
//	health ADDR             print the status code of a health check
//	stream ADDR BYTES       print "half" halfway through, and wait for a line
func runDemoProcess(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%s: arguments are missing", demoProcess)
	}
	switch {
	case args[0] == "serve":
		return serveDemo(args[1])
	case args[0] == "lookup" && len(args) == 3:
		found, err := lookup(context.Background(), &net.Resolver{PreferGo: true}, args[1], args[2])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(found)
	}
	to, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	ctx := context.Background()
	switch {
	case args[0] == "call":
		return callDemo(to, args[2:])
	case args[0] == "load":
		end := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, it is the end
			close(end)
		}()
		return json.NewEncoder(os.Stdout).Encode(flood(d.DialContext, to, end))
	case args[0] == "health":
		code, err := healthy(ctx, d.DialContext, to)
		if err != nil {
			return err
		}
		fmt.Println(code)
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

// serveDemo answers at all ports of the demo.
func serveDemo(name string) error {
	var wg sync.WaitGroup
	for _, port := range demoPorts {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		wg.Go(func() { answer(l, name) })
	}
	wg.Wait()
	return nil
}

// callDemo asks, and prints the replies. If it asks once and gets no answer,
// that is its error.
func callDemo(to netip.AddrPort, args []string) error {
	n, limit := 1, 30*time.Second
	if len(args) == 2 {
		var err, lerr error
		n, err = strconv.Atoi(args[0])
		limit, lerr = time.ParseDuration(args[1])
		if err := errors.Join(err, lerr); err != nil {
			return err
		}
	}
	var d net.Dialer
	replies := ask(context.Background(), d.DialContext, to, n, limit)
	if len(args) == 0 && replies[0].Error != "" {
		return errors.New(replies[0].Error)
	}
	return json.NewEncoder(os.Stdout).Encode(replies)
}
