package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// echoHeader is the length of an echo request's header in both families
// (RFC 792, RFC 4443 section 4.1).
const echoHeader = 8

// Ping sends one echo request (ICMP, or ICMPv6 to an IPv6 address) with size
// bytes of payload and waits for its reply. It returns the round trip, which of
// the first packet includes the resolution of the next hop. An ICMP error about
// the request ends the wait: "no route to host" and the like.
func (s *Stack) Ping(ctx context.Context, addr netip.Addr, size int) (time.Duration, error) {
	addr = addr.Unmap()
	fail := func(err error) (time.Duration, error) {
		network := "ip4:icmp"
		if addr.Is6() {
			network = "ip6:ipv6-icmp"
		}
		return 0, &net.OpError{Op: "ping", Net: network, Addr: &net.IPAddr{IP: addr.AsSlice()}, Err: err}
	}
	if !addr.IsValid() {
		return fail(&net.AddrError{Err: "not an IP address"})
	}
	most := header.IPv4MaximumPayloadSize - header.IPv4MinimumSize - echoHeader
	if addr.Is6() {
		most = header.IPv6MaximumPayloadSize - echoHeader
	}
	if size < 0 || size > most {
		return fail(fmt.Errorf("payload of %d bytes; give 0 to %d: %w", size, most, syscall.EMSGSIZE))
	}
	e, err := s.newEcho(addr, size)
	if err != nil {
		return fail(err)
	}
	defer e.close()
	start := time.Now()
	if err := e.send(); err != nil {
		if s.isClosed() {
			err = net.ErrClosed
		}
		return fail(err)
	}
	select {
	case r := <-e.result:
		if r.err != nil {
			return fail(r.err)
		}
		return r.at.Sub(start), nil
	case <-s.done:
		return fail(net.ErrClosed)
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
}

// echo is one echo request that waits for its reply: an endpoint of gVisor's
// demultiplexer. gVisor's own ICMP socket would do, if it heard of errors.
type echo struct {
	stack   *stack.Stack
	route   *stack.Route
	proto   tcpip.TransportProtocolNumber
	ident   uint16
	payload []byte
	result  chan echoResult
}

type echoResult struct {
	at  time.Time
	err error
}

// newEcho finds the route and registers a free identifier.
func (s *Stack) newEcho(addr netip.Addr, size int) (*echo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	// Not by the loopback interface, which has no addresses of its own: gVisor
	// answers no IPv4 echo request to the address of another interface.
	route, err := s.stack.FindRoute(nicID, tcpip.Address{}, addressOf(addr), protocolOf(addr), false)
	if err != nil {
		return nil, errnoOf(err)
	}
	e := &echo{
		stack: s.stack, route: route, proto: header.ICMPv4ProtocolNumber,
		payload: make([]byte, size), result: make(chan echoResult, 1),
	}
	if addr.Is6() {
		e.proto = header.ICMPv6ProtocolNumber
	}
	for i := range e.payload {
		e.payload[i] = byte(i)
	}
	_, err = s.stack.PickEphemeralPort(s.stack.SecureRNG(), func(ident uint16) (bool, tcpip.Error) {
		e.ident = ident
		err := e.register()
		if _, used := err.(*tcpip.ErrPortInUse); used {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		route.Release()
		return nil, errnoOf(err)
	}
	return e, nil
}

// ids returns under which names the demultiplexer looks for e: that of the
// reply, and that of an error, where gVisor takes the request's identifier,
// which it has read from the quoted packet, for the other side's port.
func (e *echo) ids() (reply, failure stack.TransportEndpointID) {
	reply = stack.TransportEndpointID{
		LocalAddress: e.route.LocalAddress(), RemoteAddress: e.route.RemoteAddress(), LocalPort: e.ident,
	}
	failure = reply
	failure.LocalPort, failure.RemotePort = 0, e.ident
	return reply, failure
}

func (e *echo) register() tcpip.Error {
	reply, failure := e.ids()
	nets := []tcpip.NetworkProtocolNumber{e.route.NetProto()}
	if err := e.stack.RegisterTransportEndpoint(nets, e.proto, reply, e, ports.Flags{}, 0); err != nil {
		return err
	}
	if err := e.stack.RegisterTransportEndpoint(nets, e.proto, failure, e, ports.Flags{}, 0); err != nil {
		e.stack.UnregisterTransportEndpoint(nets, e.proto, reply, e, ports.Flags{}, 0)
		return err
	}
	return nil
}

func (e *echo) close() {
	reply, failure := e.ids()
	nets := []tcpip.NetworkProtocolNumber{e.route.NetProto()}
	e.stack.UnregisterTransportEndpoint(nets, e.proto, reply, e, ports.Flags{}, 0)
	e.stack.UnregisterTransportEndpoint(nets, e.proto, failure, e, ports.Flags{}, 0)
	e.route.Release()
}

// send sends the request.
func (e *echo) send() error {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(e.route.MaxHeaderLength()) + echoHeader,
		Payload:            buffer.MakeWithData(e.payload),
	})
	defer pkt.DecRef()
	h := pkt.TransportHeader().Push(echoHeader)
	clear(h)
	pkt.TransportProtocolNumber = e.proto
	binary.BigEndian.PutUint16(h[4:6], e.ident)
	binary.BigEndian.PutUint16(h[6:8], 1) // sequence number
	sum := pkt.Data().Checksum()
	if e.proto == header.ICMPv6ProtocolNumber {
		h[0] = byte(header.ICMPv6EchoRequest)
		sum = checksum.Combine(sum, e.route.PseudoHeaderChecksum(e.proto, uint16(pkt.Size())))
	} else {
		h[0] = byte(header.ICMPv4Echo)
	}
	binary.BigEndian.PutUint16(h[2:4], ^checksum.Checksum(h, sum))
	err := e.route.WritePacket(stack.NetworkHeaderParams{Protocol: e.proto, TTL: e.route.DefaultTTL()}, pkt)
	if err != nil {
		return errnoOf(err)
	}
	return nil
}

// finish hands over the first result and forgets later ones.
func (e *echo) finish(err error) {
	select {
	case e.result <- echoResult{time.Now(), err}:
	default:
	}
}

// HandlePacket implements [stack.TransportEndpoint]: only our own reply counts.
func (e *echo) HandlePacket(_ stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	h := pkt.TransportHeader().Slice()
	reply := byte(header.ICMPv4EchoReply)
	if e.proto == header.ICMPv6ProtocolNumber {
		reply = byte(header.ICMPv6EchoReply)
	}
	if len(h) < echoHeader || h[0] != reply || h[1] != 0 || binary.BigEndian.Uint16(h[6:8]) != 1 {
		return
	}
	if bytes.Equal(pkt.Data().AsRange().ToSlice(), e.payload) {
		e.finish(nil)
	}
}

// HandleError implements [stack.TransportEndpoint]: an ICMP error, or a next
// hop that does not answer.
func (e *echo) HandleError(err stack.TransportError, _ *stack.PacketBuffer) {
	switch err.Kind() {
	case stack.DestinationHostUnreachableTransportError, stack.DestinationHostDownTransportError:
		e.finish(syscall.EHOSTUNREACH)
	case stack.DestinationNetworkUnreachableTransportError:
		e.finish(syscall.ENETUNREACH)
	case stack.DestinationPortUnreachableTransportError, stack.DestinationProtoUnreachableTransportError:
		e.finish(syscall.ECONNREFUSED)
	case stack.PacketTooBigTransportError:
		e.finish(syscall.EMSGSIZE)
	}
}

// Abort implements [stack.TransportEndpoint].
func (e *echo) Abort() { e.finish(net.ErrClosed) }

// Wait implements [stack.TransportEndpoint].
func (e *echo) Wait() {}
