package dns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	wire "github.com/miekg/dns"
)

// ResolvConf is where a system says which resolvers it uses.
const ResolvConf = "/etc/resolv.conf"

// maxUpstreams of a resolv.conf count, as with the C library (MAXNS).
const maxUpstreams = 3

// ReadResolvConf returns the resolvers that a file names. What is not an address
// is left out.
func ReadResolvConf(file string) (list []netip.AddrPort, err error) {
	c, err := wire.ClientConfigFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read resolvers: %w", err)
	}
	port, err := strconv.ParseUint(c.Port, 10, 16)
	if err != nil {
		return nil, err
	}
	for _, s := range c.Servers {
		a, err := netip.ParseAddr(s)
		if err == nil && len(list) < maxUpstreams {
			list = append(list, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	return list, nil
}

// followInterval is how often a resolv.conf is looked at.
const followInterval = 2 * time.Second

// FollowResolvConf makes upstreams of f what a file names, whenever that has
// changed, until ctx is done: a machine moves to another network, or a VPN comes
// up. use says which of them may be used, and is told of all changes. A file that
// cannot be read, or names nobody, changes nothing: it is being written.
func FollowResolvConf(ctx context.Context, file string, f *Forwarder, use func([]netip.AddrPort) []netip.AddrPort) {
	var last os.FileInfo
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		if info, err := os.Stat(file); err == nil && (last == nil || !os.SameFile(last, info) || !info.ModTime().Equal(last.ModTime()) || info.Size() != last.Size()) {
			list, err := ReadResolvConf(file)
			if err == nil && len(list) > 0 {
				last = info
				if list = use(list); !slices.Equal(list, f.Upstreams()) {
					f.SetUpstreams(list)
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
