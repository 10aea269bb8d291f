//go:build !linux

package overlay

import "net/netip"

// Link is this node's VXLAN endpoint. On systems other than Linux it is a
// ConnLink.
type Link = ConnLink

// Listen opens a link.
func Listen(cfg Config) (*Link, error) { return ListenConn(cfg) }

// sockaddr is not needed: net has its own.
type sockaddr struct{}

func newSockaddr(netip.AddrPort) sockaddr { return sockaddr{} }
