package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// narrow is the MTU that the router says that testNarrow plays, narrowPort where it is.
const (
	narrow     = 1300
	narrowPort = 8
)

// testNarrow is a server of the echo, and at another port a router behind it that takes
// no more than narrow bytes: it says so about what is larger, and sends back the rest.
func testNarrow() int {
	for _, network := range []string{"4", "6"} {
		icmp := map[string]string{"4": "ip4:icmp", "6": "ip6:ipv6-icmp"}[network]
		raw, err := net.ListenPacket(icmp, "")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		u, err := net.ListenPacket("udp"+network, fmt.Sprintf(":%d", narrowPort))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go serveNarrow(raw, u)
	}
	return testEcho() // it listens when the others do
}

func serveNarrow(raw, u net.PacketConn) {
	buf := make([]byte, 2000)
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			continue
		}
		peer := from.(*net.UDPAddr)
		if n <= narrow-48 {
			u.WriteTo(buf[:n], from)
			continue
		}
		own, _ := net.Dial("udp", peer.String()) // which of the pod's addresses it is
		msg := tooBig(peer.AddrPort(), own.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), buf[:n])
		own.Close()
		raw.WriteTo(msg, &net.IPAddr{IP: peer.IP})
	}
}

// tooBig is the ICMP message about a datagram of a client's.
func tooBig(client netip.AddrPort, own netip.Addr, payload []byte) []byte {
	src, dst := client.Addr().Unmap(), own.Unmap()
	var ip []byte
	total := 8 + len(payload)
	if src.Is4() {
		ip = make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 60, packet.ProtoUDP
		binary.BigEndian.PutUint16(ip[2:], uint16(20+total))
		ip[6] = 0x40 // DF
	} else {
		ip = make([]byte, 8)
		ip[0], ip[6], ip[7] = 0x60, packet.ProtoUDP, 60
		binary.BigEndian.PutUint16(ip[4:], uint16(total))
	}
	if src.Is6() {
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	} else {
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(ip, 0)))
	}
	udp := binary.BigEndian.AppendUint16(nil, client.Port())
	udp = binary.BigEndian.AppendUint16(udp, narrowPort)
	udp = binary.BigEndian.AppendUint16(udp, uint16(total))
	udp = append(append(udp, 0, 0), payload...)
	a, b := packet.AddrFrom(src), packet.AddrFrom(dst)
	binary.BigEndian.PutUint16(udp[6:], ^packet.Fold(packet.Sum(udp, packet.PseudoSum(&a, &b, packet.ProtoUDP, total))))
	quote := append(ip, udp...)
	if src.Is4() {
		msg := append([]byte{3, 4, 0, 0, 0, 0, narrow >> 8, narrow & 0xff}, quote[:548]...)
		binary.BigEndian.PutUint16(msg[2:], ^packet.Fold(packet.Sum(msg, 0)))
		return msg
	}
	return append([]byte{2, 0, 0, 0, 0, 0, narrow >> 8, narrow & 0xff}, quote[:1232]...) // the kernel adds the checksum
}

// testPMTU sends what is too big to each address, and prints what went wrong before
// its socket knew the path's MTU and the rest came through. It ends with "done".
func testPMTU(addrs []string) int {
	for _, a := range addrs {
		if err := learnPMTU(netip.AddrPortFrom(netip.MustParseAddr(a), narrowPort)); err != nil {
			fmt.Printf("%s: %v\n", a, err)
		}
	}
	fmt.Println("done")
	return 0
}

func learnPMTU(to netip.AddrPort) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := c.File() // a blocking duplicate of the same socket, for its options
	if err != nil {
		return err
	}
	defer f.Close()
	level, discover, mtu := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	if to.Addr().Is6() {
		level, discover, mtu = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	}
	if err := unix.SetsockoptInt(int(f.Fd()), level, discover, unix.IP_PMTUDISC_DO); err != nil {
		return err
	}
	big, got := make([]byte, 1380), 0
	// An error about one is told by the call for the next.
	for end := time.Now().Add(answerWithin); time.Now().Before(end); {
		_, _ = c.Write(big)
		time.Sleep(20 * time.Millisecond)
		if got, err = unix.GetsockoptInt(int(f.Fd()), level, mtu); err != nil {
			return err
		}
		if got == narrow {
			break
		}
	}
	if got != narrow {
		return fmt.Errorf("the path's MTU is %d after too-big messages, want %d", got, narrow)
	}
	if _, err := c.Write(big); !errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("sending more than the path's MTU gives %v, want %v", err, unix.EMSGSIZE)
	}
	for range 5 {
		if _, err = c.Write(big[:1200]); err != nil {
			continue
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err = c.Read(make([]byte, 2000)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("what fits does not come through: %w", err)
}

// narrowService is a pod of %[2]s on node2 and its service.
const narrowService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: narrow}
  ports:
  - {name: echo, port: %[1]d, protocol: TCP}
  - {name: echo-udp, port: %[1]d, protocol: UDP}
  - {name: narrow, port: %[2]d, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: narrow, namespace: shop, labels: {app: narrow}}
spec:
  nodeName: node2
  containers: [{name: main, command: [%[3]q, test-narrow]}]
---
`

// TestB12B13ServiceAcrossNodes: bytes in all sizes, from one to superpackets and to
// what takes 47 fragments, go through a service to a pod of another node, with
// (load balancer) and without (cluster IP) a translated source, and to the client
// itself. They arrive as they were sent, no checksum is wrong at either end, and
// what a router behind the pod says of its MTU reaches the client's socket.
func TestB12B13ServiceAcrossNodes(t *testing.T) {
	exe := thisProgram(t)
	c := clusterOf(t, 2, clientPods+fmt.Sprintf(narrowService, echoPort, narrowPort, exe))
	listening(t, c, "tcp", echoPort, "narrow")
	state, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, s := range state.Services {
		for _, a := range s.ClusterIPs {
			addrs = append(addrs, a.String())
		}
		for _, in := range s.Ingress {
			addrs = append(addrs, in.IP.String())
		}
	}
	if len(addrs) != 4 {
		t.Fatalf("addresses %v, want a cluster IP and a load balancer's in both families", addrs)
	}
	for _, pod := range []string{"client1", "narrow"} {
		command := append([]string{exe, "test-talk", strconv.Itoa(32 << 20)}, addrs...)
		if got, _ := runWithin(t, c, 2*bulkTime(32<<20), ExecRequest{Pod: pod, Command: command}, ""); got != "done\n" {
			t.Errorf("%s: %s", pod, got)
		}
	}
	command := append([]string{exe, "test-pmtu"}, addrs...)
	if got, _ := run(t, c, ExecRequest{Pod: "client1", Command: command}, ""); got != "done\n" {
		t.Error(got)
	}
	for _, pod := range []string{"client1", "narrow"} {
		if got, _ := run(t, c, ExecRequest{Pod: pod, Command: sh(checksumErrors)}, ""); strings.TrimSpace(got) != "" {
			t.Errorf("checksum errors at %s: %s", pod, got)
		}
	}
}
