package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// ConnLink is a link that uses nothing but package net: one datagram at a time,
// received by a goroutine. It is what systems other than Linux have, and a
// second opinion on Linux. It is a port.Port and port.Notifier.
//
// It neither copies the ECN field out nor reads it back, which RFC 6040 section
// 4.1 calls compatibility mode, and the outer TTL is the system's. A system
// whose send buffer is full may make Write wait for it.
type ConnLink struct {
	endpoint
	recv *net.UDPConn
	send []*net.UDPConn
	done chan struct{} // closed when the pump has ended
	ring frameRing

	wmu     sync.Mutex // guards scratch
	scratch []byte     // a VXLAN header and a segment
}

var (
	_ port.Port     = (*ConnLink)(nil)
	_ port.Notifier = (*ConnLink)(nil)
)

// ListenConn opens a link without offloads; Config.Offload is ignored.
func ListenConn(cfg Config) (*ConnLink, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, listenError(cfg.Local, err)
	}
	l := &ConnLink{done: make(chan struct{})}
	l.init(cfg)
	if err := l.open(); err != nil {
		l.closeConns()
		return nil, listenError(cfg.Local, err)
	}
	l.ring.init(packet.EthernetLen + cfg.MTU)
	l.scratch = make([]byte, HeaderLen+packet.EthernetLen+cfg.MTU)
	go l.pump()
	return l, nil
}

func (l *ConnLink) open() (err error) {
	network := "udp4"
	if l.cfg.Local.Addr().Is6() {
		network = "udp6"
	}
	if l.recv, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(l.cfg.Local)); err != nil {
		return fmt.Errorf("%w; take another port or address of this machine", err)
	}
	// What the system does not give is not an error; there is no portable way
	// to ask what it gave.
	_ = l.recv.SetReadBuffer(l.cfg.RecvBuffer)
	l.local = addrOf(l.recv)
	for range l.cfg.Sockets {
		c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.cfg.Local.Addr(), 0)))
		if err != nil {
			return err
		}
		l.send = append(l.send, c)
		_ = c.SetReadBuffer(1) // nobody reads it
		_ = c.SetWriteBuffer(l.cfg.SendBuffer)
		l.ports = append(l.ports, addrOf(c).Port())
	}
	return nil
}

func addrOf(c *net.UDPConn) netip.AddrPort {
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// pump receives until the socket is closed.
func (l *ConnLink) pump() {
	defer close(l.done)
	buf := make([]byte, 1<<16)
	for {
		n, from, err := l.recv.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			l.received(buf[:n], from)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			// Windows reports here that a peer refused what we sent.
			l.drop(DropReceive, 1)
			time.Sleep(time.Millisecond)
		}
	}
}

// received gives a datagram to Read, or drops it.
func (l *ConnLink) received(d []byte, from netip.AddrPort) {
	p := l.peers.Load().lookup(sourceOf(from.Addr(), from.Port()))
	vni, err := ParseHeader(d)
	switch {
	case p == nil:
		l.drop(DropUnknownPeer, 1)
	case errors.Is(err, ErrShort), len(d) < HeaderLen+packet.EthernetLen:
		l.drop(DropShort, 1)
	case err != nil:
		l.drop(DropHeader, 1)
	case vni != l.cfg.VNI:
		l.drop(DropVNI, 1)
	case len(d) > HeaderLen+l.ring.size:
		l.drop(DropLong, 1)
	default:
		d = d[HeaderLen:]
		p.n.rx.count(&tally{packets: 1, bytes: uint64(len(d))})
		l.ring.put(d, p.id)
	}
}

// Notify implements port.Notifier.
func (l *ConnLink) Notify(wake func()) { l.ring.notify(wake) }

// Read implements port.Port.
func (l *ConnLink) Read(b *packet.Batch, limit int) (int, error) {
	n, closed := l.ring.read(b, limit)
	if closed {
		return n, fmt.Errorf("vxlan link on %s: %w", l.local, port.ErrClosed)
	}
	return n, nil
}

// Write implements port.Port.
func (l *ConnLink) Write(b *packet.Batch, idx []uint16) (int, error) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	t := l.peers.Load()
	sent := 0
	for _, i := range idx {
		p := &b.Packets[i]
		to := t.get(p.Peer)
		if d := l.sendable(p, to); d != dropNone {
			l.drop(d, p.Segments())
			continue
		}
		ok, err := l.write(b, p, to)
		if err != nil {
			return sent, err
		}
		if ok {
			sent++
		}
	}
	return sent, nil
}

// write sends the datagrams that p is, and reports whether all were sent. An
// error says that the link is closed.
func (l *ConnLink) write(b *packet.Batch, p *packet.Packet, to *peer) (ok bool, err error) {
	c := l.send[(p.Hash>>32)*uint64(len(l.send))>>32]
	if p.GSO == packet.GSONone {
		b.Complete(p)
		d := b.Buf[p.Off-HeaderLen : p.Off+p.Len]
		return l.writeOne(c, d, to)
	}
	cutter := b.Cut(p, false)
	all, n := true, 0
	for {
		hdr, payload, more := cutter.Next(l.scratch[HeaderLen:])
		if !more {
			break
		}
		n++
		size := HeaderLen + hdr
		size += copy(l.scratch[size:], payload)
		ok, err := l.writeOne(c, l.scratch[:size], to)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	if n == 0 {
		l.drop(DropMalformed, p.Segments())
	}
	return all && n > 0, nil
}

// writeOne sends the datagram d after it has written its header.
func (l *ConnLink) writeOne(c *net.UDPConn, d []byte, to *peer) (bool, error) {
	binary.BigEndian.PutUint64(d, l.header)
	_, err := c.WriteToUDPAddrPort(d, to.Addr)
	switch {
	case err == nil:
		to.n.tx.add(&tally{packets: 1, bytes: uint64(len(d) - HeaderLen)})
		return true, nil
	case errors.Is(err, net.ErrClosed):
		return false, fmt.Errorf("vxlan link on %s: %w", l.local, port.ErrClosed)
	}
	to.n.errors.Add(1)
	l.drop(dropOfError(err), 1)
	return false, nil
}

func dropOfError(err error) Drop {
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOBUFS):
		return DropFull
	case errors.Is(err, syscall.EMSGSIZE):
		return DropMessageSize
	case errors.Is(err, syscall.ECONNREFUSED):
		return DropRefused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return DropUnreachable
	}
	return DropSend
}

// Offload reports that every datagram is sent alone.
func (l *ConnLink) Offload() bool { return false }

// Drops returns how many datagrams were lost, by reason.
func (l *ConnLink) Drops() map[Drop]uint64 { return l.dropCounts() }

// Close ends the link and frees its ports.
func (l *ConnLink) Close() error {
	l.ring.close()
	l.closeConns()
	<-l.done
	return nil
}

func (l *ConnLink) closeConns() {
	if l.recv != nil {
		_ = l.recv.Close()
	}
	for _, c := range l.send {
		_ = c.Close()
	}
}
