package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/netns"
)

// outside is a namespace that stands for a client outside of the cluster, and
// the router between it and the nodes: what is for an address of a node or in its
// range of pods goes to that node, all else to one that the balancer chooses. It
// is made when it is first used.
type outside struct {
	sup  *supervisor
	ns   string
	sock string

	mu    sync.Mutex // guards what follows
	tun   *os.File   // nil: not made yet
	conn  *net.UnixConn
	nodes []outsideNode // by name
	lb    *balancer
	// askers ask nodes for their health, by name. Each keeps its connections: what
	// a node says to itself at a node port is among its flows.
	askers map[string]*http.Client
}

// outsideNode is a node that the router knows the way to.
type outsideNode struct {
	name  string
	addrs []netip.Addr
	pods  []netip.Prefix
	mac   []byte // of its gateway
	to    *net.UnixAddr
	ready func() bool
}

// has reports whether an address is the node's own or in its range of pods.
func (n *outsideNode) has(a netip.Addr) bool {
	return slices.Contains(n.addrs, a) || slices.ContainsFunc(n.pods, func(r netip.Prefix) bool { return r.Contains(a) })
}

func newOutside(s *supervisor) *outside {
	return &outside{sup: s, ns: filepath.Join(s.dir, netnsDir, "outside"), sock: filepath.Join(s.dir, "outside.sock"), lb: newBalancer(), askers: map[string]*http.Client{}}
}

// open makes the namespace and its router, unless they are there, and connects
// all nodes that are ready.
func (o *outside) open(ctx context.Context) error {
	o.mu.Lock()
	made := o.tun != nil
	err := o.make()
	o.mu.Unlock()
	if err != nil {
		return fmt.Errorf("make the network outside: %w", err)
	}
	if !made {
		go o.watch()
	}
	o.sup.mu.Lock()
	nodes := slices.Clone(o.sup.nodes)
	o.sup.mu.Unlock()
	for _, n := range nodes {
		if n.notReady() == nil {
			if err := o.connect(ctx, n); err != nil {
				return err
			}
		}
	}
	if !made {
		o.ask(ctx) // the first packet should find its way already
	}
	return nil
}

// make is called with mu held.
func (o *outside) make() error {
	if o.tun != nil {
		return nil
	}
	if err := makeNS(o.ns); err != nil {
		return err
	}
	var tun *os.File
	err := netns.Do(o.ns, func() (err error) {
		if tun, err = openTUN("eth0"); err != nil {
			return err
		}
		if err := netns.Configure(netns.Link{Name: "eth0", MTU: 1450, Addrs: outsideAddrs}); err != nil {
			return err
		}
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			if err := netns.AddRoute("eth0", netip.MustParsePrefix(all), netip.Addr{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		o.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: o.sock, Net: "unixgram"})
	}
	if err != nil {
		if tun != nil {
			tun.Close()
		}
		return err
	}
	o.tun = tun
	go o.send(tun, o.conn)
	go o.receive(tun, o.conn)
	return nil
}

// connect attaches a node's outside port, if there is an outside.
func (o *outside) connect(ctx context.Context, n *node) error {
	o.mu.Lock()
	made := o.tun != nil
	o.mu.Unlock()
	spec := o.sup.store.State().Node(n.name)
	if !made || spec == nil {
		return nil
	}
	socket := filepath.Join(n.dir, "out.sock")
	st, err := n.client.AttachOutside(ctx, agent.OutsideRequest{Socket: socket, Remote: o.sock, Prefixes: outsideAddrs})
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(st.GatewayMAC)
	if err != nil {
		return err
	}
	to := outsideNode{name: n.name, addrs: slices.Concat(spec.Addresses, spec.ExtraAddresses), pods: spec.PodCIDRs, mac: mac,
		to: &net.UnixAddr{Name: socket, Net: "unixgram"}, ready: func() bool { return n.notJoined() == nil }}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.nodes = slices.DeleteFunc(o.nodes, func(x outsideNode) bool { return x.name == n.name })
	o.nodes = append(o.nodes, to)
	slices.SortFunc(o.nodes, func(a, b outsideNode) int { return strings.Compare(a.name, b.name) })
	return nil
}

// forget drops a node that is gone.
func (o *outside) forget(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.nodes = slices.DeleteFunc(o.nodes, func(x outsideNode) bool { return x.name == name })
}

// route returns the node that a packet goes to; nil: none.
func (o *outside) route(f flow, begins bool) *outsideNode {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ready []string
	for i := range o.nodes {
		if n := o.nodes[i]; n.has(f.dst) {
			return &n
		}
		if o.nodes[i].ready() {
			ready = append(ready, o.nodes[i].name)
		}
	}
	name := o.lb.choose(f, begins, ready, time.Now())
	for _, n := range o.nodes {
		if n.name == name {
			return &n
		}
	}
	return nil
}

// send takes packets from the client to nodes, until the device is closed.
func (o *outside) send(tun *os.File, conn *net.UnixConn) {
	const head = 14
	frame := make([]byte, head+65536)
	for {
		n, err := tun.Read(frame[head:])
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			continue
		}
		f, begins, ok := flowOf(frame[head : head+n])
		if !ok {
			continue
		}
		node := o.route(f, begins)
		if node == nil {
			continue
		}
		copy(frame, node.mac)
		copy(frame[6:], []byte{2, 'o', 'u', 't', 0, 1})
		frame[12], frame[13] = 0x08, 0x00
		if !f.dst.Is4() {
			frame[12], frame[13] = 0x86, 0xdd
		}
		conn.WriteToUnix(frame[:head+n], node.to) // a node that is down loses packets, as networks do
	}
}

// receive takes packets from nodes to the client, until the socket is closed.
func (o *outside) receive(tun *os.File, conn *net.UnixConn) {
	const head = 14
	frame := make([]byte, head+65536)
	for {
		n, err := conn.Read(frame)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if n > head {
			tun.Write(frame[head:n]) // what is no packet is refused by the kernel
		}
	}
}

// close ends all that is outside.
func (o *outside) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if inode := inodeOf(o.ns); inode != 0 {
		killMembers("net", inode)
	}
	if o.tun != nil {
		o.tun.Close()
		o.conn.Close()
	}
	if err := netns.Delete(o.ns); err != nil {
		o.sup.log.Error("namespace stays", "err", err)
	}
}

// openTUN makes an L3 device in the namespace of this thread.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tunDevice, err)
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], name)
	req.flags = unix.IFF_TUN | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		unix.Close(fd)
		return nil, fmt.Errorf("make a TUN: %w", errno)
	}
	return os.NewFile(uintptr(fd), tunDevice), nil
}
