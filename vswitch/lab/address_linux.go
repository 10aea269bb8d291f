package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Well-known ports of the underlay.
const (
	vxlanPort  = 8472 // flannel's and Linux' own default
	gossipPort = 7946 // memberlist's default
)

// underlay is where a node receives from other nodes. Every node of every
// cluster on the machine has a loopback address of its own.
type underlay struct {
	vxlan, gossip netip.AddrPort
	// claim keeps other clusters off the address while its node is not
	// running: an abstract unix socket, which the kernel lets exist once.
	claim *os.File
}

func (u *underlay) close() { u.claim.Close() }

// takeUnderlay finds a free loopback address and ports. The well-known ports
// are taken if they are free there; someone who listens on all addresses may
// have them, and then other ports serve as well.
func takeUnderlay(random *rand.Rand) (*underlay, error) {
	return takeUnderlayAt(random, vxlanPort, gossipPort)
}

// takeUnderlayAt is takeUnderlay with the ports that are wanted.
func takeUnderlayAt(random *rand.Rand, wantVXLAN, wantGossip uint16) (*underlay, error) {
	var last error
	for range 64 {
		// 127.0/16 and 127.1/16 are where people put things by hand.
		addr := netip.AddrFrom4([4]byte{127, byte(2 + random.IntN(252)), byte(random.IntN(256)), byte(1 + random.IntN(254))})
		claim, err := claimAddr(addr)
		if err != nil {
			last = err
			continue
		}
		vxlan, err1 := freePort(addr, wantVXLAN, "udp")
		gossip, err2 := freePort(addr, wantGossip, "udp", "tcp")
		if err1 == nil && err2 == nil {
			return &underlay{netip.AddrPortFrom(addr, vxlan), netip.AddrPortFrom(addr, gossip), claim}, nil
		}
		claim.Close()
		last = err1
		if last == nil {
			last = err2
		}
	}
	return nil, fmt.Errorf("no free loopback address for a node: %w", last)
}

// claimAddr takes an address against all other clusters of this machine.
func claimAddr(addr netip.Addr) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@vswitch/" + addr.String()}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("claim %s: %w", addr, err)
	}
	return os.NewFile(uintptr(fd), "claim"), nil
}

// freePort returns the first port from want on that is free for all networks.
func freePort(addr netip.Addr, want uint16, networks ...string) (uint16, error) {
	var err error
	for port := want; port < want+100; port++ {
		if err = probePort(netip.AddrPortFrom(addr, port), networks...); err == nil {
			return port, nil
		}
	}
	return 0, err
}

func probePort(at netip.AddrPort, networks ...string) error {
	for _, network := range networks {
		if network == "udp" {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			c.Close()
			continue
		}
		// Without SO_REUSEADDR, which Go sets, a wildcard listener is noticed too.
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) })
		}}
		l, err := lc.Listen(context.Background(), network, at.Addr().String()+":"+strconv.Itoa(int(at.Port())))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}
