package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// MACs of the test: those of the VTEPs, as flannel announces them, and of the
// pod and its gateway.
var (
	ourMAC    = net.HardwareAddr{0x0a, 1, 0, 0, 0, 1}
	kernelMAC = net.HardwareAddr{0x0a, 2, 0, 0, 0, 2}
	podMAC    = net.HardwareAddr{0x0a, 3, 0, 0, 0, 3}
	gateMAC   = net.HardwareAddr{0x0a, 4, 0, 0, 0, 4}
)

// Addresses of the pod on our side and of what is behind the kernel's device.
const (
	pod4, pod6       = "10.244.1.2", "fd00:10:244:1::2"
	kernel4, kernel6 = "10.244.2.2", "fd00:10:244:2::2"
	stockBuffer      = 212992 // net.core.rmem_max of a stock system
)

// TestKernelVXLAN connects a link with a kernel VXLAN device that is set up as
// flannel does: VNI 1, port 8472, no learning, FDB entries by VTEP MAC, routes
// through the subnet's .0 address. The pod behind the link is a TAP.
func TestKernelVXLAN(t *testing.T) {
	if fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	} else if os.Getenv("CI") != "" {
		t.Fatalf("no TAP: %v", err)
	} else {
		t.Skipf("no TAP: %v", err)
	}
	if !inNamespaces(t) {
		return
	}
	for _, v6 := range []bool{false, true} {
		for _, wire := range []string{"cable", "gro", "virtual"} {
			for _, offload := range []bool{true, false} {
				name := fmt.Sprintf("%s/offload=%v", wire, offload)
				if v6 {
					name = "underlay6/" + name
				}
				t.Run(name, func(t *testing.T) { testKernelVXLAN(t, v6, wire, offload) })
			}
		}
	}
}

func testKernelVXLAN(t *testing.T, v6 bool, wire string, offload bool) {
	us, kernel, pod := newNetns(t), newNetns(t), newNetns(t)
	local, remote, bits := "172.16.0.1", "172.16.0.2", "/24"
	if v6 {
		local, remote, bits = "fd00:16::1", "fd00:16::2", "/64"
	}
	mtu := InnerMTU(netip.MustParseAddr(local), 1500)
	wireUp(t, us, kernel, local+bits, remote+bits, wire)
	kernel.do(t, func() { flannel(t, remote, local, mtu) })
	var tap *port.TAP
	pod.do(t, func() { tap = podTAP(t, mtu) })
	defer tap.Close()
	var link *Link
	us.do(t, func() {
		var err error
		link, err = Listen(Config{Local: netip.AddrPortFrom(netip.MustParseAddr(local), Port), VNI: 1, MTU: mtu,
			Offload: offload, RecvBuffer: stockBuffer, SendBuffer: stockBuffer})
		check(t, "listen", err)
	})
	defer link.Close()
	id, err := link.AddPeer(Peer{Name: "kernel", Addr: netip.AddrPortFrom(netip.MustParseAddr(remote), Port),
		Verify: wire == "virtual"})
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(forwardBetween(t, tap, link, id))
	defer stop()

	outer := capture(t, kernel, "k0")
	for _, a := range [][2]string{{pod4, kernel4}, {pod6, kernel6}} {
		echoes(t, pod, kernel, a[1])
		echoes(t, kernel, pod, a[0])
		stream(t, "to the kernel", pod, kernel, a[1])
		stream(t, "from the kernel", kernel, pod, a[0])
	}
	if wire != "virtual" {
		checkOuter(t, outer, link, v6)
	}
	stop()
	for name, n := range map[string]netns{"pod": pod, "kernel": kernel, "us": us} {
		if bad := n.checksumErrors(t); len(bad) != 0 {
			t.Errorf("errors in %s: %v", name, bad)
		}
	}
	c, _ := link.PeerCounters(id)
	t.Logf("%+v, drops %v", c, link.Drops())
	for d := range link.Drops() {
		if d != DropOverrun && d != DropFull {
			t.Errorf("dropped: %v", link.Drops())
		}
	}
	if offload && c.TxSuper == 0 || offload && wire == "gro" && c.RxSuper == 0 {
		t.Error("no offloads were used")
	}
}

// wireUp connects us with the kernel's end.
func wireUp(t testing.TB, us, kernel netns, local, remote, wire string) {
	us.do(t, func() {
		veth(t, "u0", "k0", kernel, 1500)
		up(t, "u0")
		address(t, "u0", local)
		asCable(t, "u0", wire)
	})
	kernel.do(t, func() {
		up(t, "k0")
		address(t, "k0", remote)
		asCable(t, "k0", wire)
	})
}

// asCable makes a veth end behave as a network card does: what leaves it is cut
// and has its checksums, the inner one included. The virtual wire does not: there,
// superpackets and unfinished checksums pass as they are.
func asCable(t testing.TB, dev, wire string) {
	if wire == "virtual" {
		return
	}
	ethtool(t, dev, ethtoolTxChecksum, false)
	ethtool(t, dev, ethtoolGRO, wire == "gro")
}

// flannel sets up the kernel's end as flannel's vxlan backend does
// (pkg/backend/vxlan), with both families on one device.
func flannel(t testing.TB, local, remote string, mtu int) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = "flannel.1", mtu, kernelMAC
	check(t, "flannel.1", netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: device(t, "k0").Attrs().Index,
		SrcAddr: net.ParseIP(local), Port: Port, Learning: false,
	}))
	up(t, "flannel.1")
	address(t, "flannel.1", "10.244.2.0/32")
	address(t, "flannel.1", "fd00:10:244:2::/128")
	address(t, "lo", kernel4+"/32")
	address(t, "lo", kernel6+"/128")
	check(t, "fdb", netlink.NeighSet(&netlink.Neigh{
		LinkIndex: device(t, "flannel.1").Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT,
		Flags: netlink.NTF_SELF, IP: net.ParseIP(remote), HardwareAddr: ourMAC,
	}))
	route(t, "flannel.1", "10.244.1.0/24", "10.244.1.0", ourMAC, kernel4)
	route(t, "flannel.1", "fd00:10:244:1::/64", "fd00:10:244:1::", ourMAC, kernel6)
}

// podTAP is a pod's interface.
func podTAP(t testing.TB, mtu int) *port.TAP {
	tap, err := port.OpenTAP(port.TAPConfig{Name: "eth0", MTU: mtu})
	if err != nil {
		t.Error(err)
		return nil
	}
	check(t, "MAC", netlink.LinkSetHardwareAddr(device(t, "eth0"), podMAC))
	up(t, "eth0")
	address(t, "eth0", pod4+"/24")
	address(t, "eth0", pod6+"/64")
	route(t, "eth0", "10.244.0.0/16", "10.244.1.1", gateMAC, pod4)
	route(t, "eth0", "fd00:10:244::/56", "fd00:10:244:1::1", gateMAC, pod6)
	return tap
}

// forwardBetween is a switch with two ports and nothing to decide. The function
// it returns ends it.
func forwardBetween(t testing.TB, tap *port.TAP, link *Link, peer uint16) (stop func()) {
	ctl, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := packet.NewBatch()
		idx := make([]uint16, 0, packet.BatchSize)
		move := func(from, to port.Port, dst, src net.HardwareAddr) {
			if _, err := from.Read(b, packet.BatchSize); err != nil {
				t.Error(err)
			}
			idx = idx[:0]
			for i := range b.Packets {
				p := &b.Packets[i]
				b.Parse(p)
				if p.Class == packet.Malformed {
					t.Errorf("malformed: %+v %x", p, b.Frame(p)[:min(100, len(b.Frame(p)))])
				}
				if p.Tuple.Dst == (packet.Addr{}) || p.Class == packet.Multicast || p.Class == packet.ICMPOther {
					continue
				}
				p.Hash = p.Tuple.Hash(1)
				b.SetEthernet(p, (*[6]byte)(dst), (*[6]byte)(src))
				b.DecrementTTL(p)
				p.Peer = peer
				idx = append(idx, uint16(i))
			}
			if _, err := to.Write(b, idx); err != nil {
				t.Error(err)
			}
			b.Reset()
		}
		for {
			fds := []unix.PollFd{{Fd: int32(tap.FD()), Events: unix.POLLIN}, {Fd: int32(link.FD()), Events: unix.POLLIN}, {Fd: int32(ctl), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
				t.Error(err)
				return
			}
			if fds[2].Revents != 0 {
				return
			}
			if fds[0].Revents != 0 {
				move(tap, link, kernelMAC, ourMAC)
			}
			if fds[1].Revents != 0 {
				move(link, tap, podMAC, gateMAC)
			}
		}
	}()
	return func() {
		unix.Write(ctl, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-done
		unix.Close(ctl)
	}
}

// echoes sends UDP datagrams of many sizes, fragmented ones included, from one
// namespace to a server in the other and back, and pings.
func echoes(t *testing.T, from, to netns, ip string) {
	t.Helper()
	var server net.PacketConn
	var client, icmp net.Conn
	var err, err2 error
	to.do(t, func() { server, err = net.ListenPacket("udp", hostPort(ip, 0)) })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, a, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], a)
		}
	}()
	network := "ip4:icmp"
	if netip.MustParseAddr(ip).Is6() {
		network = "ip6:ipv6-icmp"
	}
	from.do(t, func() {
		client, err = net.Dial("udp", server.LocalAddr().String())
		icmp, err2 = net.Dial(network, ip)
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	defer client.Close()
	defer icmp.Close()
	buf := make([]byte, 1<<16)
	for _, n := range []int{0, 1, 2, 22, 100, 1000, 1380, 1381, 1382, 1402, 1403, 1421, 1422, 1423, 2000, 4000, 8000} {
		d := noise(n)
		client.SetDeadline(time.Now().Add(patience))
		if _, err := client.Write(d); err != nil {
			t.Fatalf("%s: %d bytes: %v", ip, n, err)
		}
		if k, err := client.Read(buf); err != nil || string(buf[:k]) != string(d) {
			t.Fatalf("%s: echo of %d bytes: %d, %v", ip, n, k, err)
		}
		ping(t, icmp, d)
	}
}

// ping sends an echo request and waits for the reply.
func ping(t *testing.T, c net.Conn, payload []byte) {
	t.Helper()
	v6 := c.RemoteAddr().(*net.IPAddr).IP.To4() == nil
	request, reply, skip := byte(8), byte(0), 20
	if v6 {
		request, reply, skip = 128, 129, 0
	}
	m := append([]byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}, payload...)
	if !v6 {
		binary.BigEndian.PutUint16(m[2:], ^naiveSum(m))
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(m); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("no reply to a ping of %s with %d bytes: %v", c.RemoteAddr(), len(payload), err)
		}
		b := buf[:n]
		// net strips the IPv4 header on some versions.
		if !v6 && n > skip && b[0] == 0x45 && len(b) == len(m)+skip {
			b = b[skip:]
		}
		if len(b) == len(m) && b[0] == reply && string(b[8:]) == string(payload) {
			return
		}
	}
}

// stream sends bytes through TCP and compares their hash.
func stream(t *testing.T, what string, from, to netns, ip string) {
	t.Helper()
	const size = 16 << 20
	var ln net.Listener
	var c net.Conn
	var err error
	to.do(t, func() { ln, err = net.Listen("tcp", hostPort(ip, 0)) })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type result struct {
		sum [32]byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		s, err := ln.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer s.Close()
		s.SetDeadline(time.Now().Add(60 * time.Second))
		h := sha256.New()
		_, err = io.Copy(h, s)
		got <- result{[32]byte(h.Sum(nil)), err}
	}()
	from.do(t, func() { c, err = net.DialTimeout("tcp", ln.Addr().String(), patience) })
	if err != nil {
		t.Fatalf("%s, %s: %v", what, ip, err)
	}
	c.SetDeadline(time.Now().Add(60 * time.Second))
	h := sha256.New()
	start := time.Now()
	_, err = io.CopyN(io.MultiWriter(c, h), rand.NewChaCha8([32]byte{}), size)
	c.Close()
	r := <-got
	if err != nil || r.err != nil || r.sum != [32]byte(h.Sum(nil)) {
		t.Fatalf("%s, %s: sent %v, received %v, hash equal %v", what, ip, err, r.err, r.sum == [32]byte(h.Sum(nil)))
	}
	d := time.Since(start)
	t.Logf("%s %s: %.2f Gb/s", what, ip, size*8/d.Seconds()/1e9)
}

// capture returns a packet socket that sees what arrives at a device.
func capture(t *testing.T, n netns, dev string) (fd int) {
	n.do(t, func() {
		proto := uint16(unix.ETH_P_ALL)
		proto = proto<<8 | proto>>8
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(proto))
		check(t, "packet socket", err)
		check(t, "bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: device(t, dev).Attrs().Index}))
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// checkOuter looks at the outer headers of what we sent: TTL, DF, ports, and a
// checksum that is right, as is that of the inner frame.
func checkOuter(t *testing.T, fd int, l *Link, v6 bool) {
	t.Helper()
	ports := map[uint16]bool{}
	for _, p := range l.SourcePorts() {
		ports[p] = true
	}
	buf := make([]byte, 1<<16)
	seen, used := 0, map[uint16]bool{}
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			break
		}
		f := buf[:n]
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		var pseudo, udp []byte
		switch {
		case !v6 && f[12] == 8 && f[13] == 0 && f[23] == 17:
			h := f[14:34]
			if h[0] != 0x45 || h[1] > 3 || h[6] != 0 || h[7] != 0 || h[8] != 64 || naiveSum(h) != 0xffff {
				t.Errorf("outer header %x", h)
			}
			udp = f[34 : 14+int(binary.BigEndian.Uint16(h[2:]))]
			pseudo = append(append([]byte(nil), h[12:20]...), 0, 17, udp[4], udp[5])
		case v6 && f[12] == 0x86 && f[20] == 17:
			h := f[14:54]
			if h[7] != 64 || h[0] != 0x60 || h[1]&0xf0 > 0x30 {
				t.Errorf("outer header %x", h)
			}
			udp = f[54 : 54+int(binary.BigEndian.Uint16(h[4:]))]
			pseudo = append(append([]byte(nil), h[8:40]...), 0, 17, udp[4], udp[5])
		default:
			continue
		}
		seen++
		src := binary.BigEndian.Uint16(udp)
		used[src] = true
		if !ports[src] || binary.BigEndian.Uint16(udp[2:]) != Port {
			t.Errorf("outer ports %x", udp[:4])
		}
		if udp[6]|udp[7] == 0 || naiveSum(pseudo, udp) != 0xffff {
			t.Errorf("outer checksum %x of %d bytes", udp[6:8], len(udp))
		}
		if vni, err := ParseHeader(udp[8:]); vni != 1 || err != nil {
			t.Errorf("VXLAN header %x", udp[8:16])
		}
		if t.Failed() {
			return
		}
	}
	if seen < 50 || len(used) < 2 {
		t.Errorf("%d datagrams seen, from %d ports", seen, len(used))
	}
}
