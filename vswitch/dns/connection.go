package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

// Limits of the connections of a server.
const (
	// maxConnections is how many TCP connections a listener has at a time, and
	// maxConnectionsEach how many from one address. One more is closed at once.
	maxConnections     = 512
	maxConnectionsEach = maxConnections / 4
	// maxPipelined is how many questions of one connection may wait for upstreams.
	// One more is read when there is room (RFC 7766 section 6.2.1.1).
	maxPipelined = 32
	// writeTimeout is how long a client may leave an answer in its socket.
	writeTimeout = 5 * time.Second
	// acceptPause follows a connection that could not be accepted: there may be
	// no descriptor left for it, and trying at once does not help.
	acceptPause = 10 * time.Millisecond
)

// limited is a Listener with so many connections at a time.
type limited struct {
	net.Listener
	room *shares

	mu   sync.Mutex
	open map[*counted]struct{}
}

func newLimited(l net.Listener) *limited {
	return &limited{Listener: l, room: newShares(maxConnections, maxConnectionsEach), open: map[*counted]struct{}{}}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				time.Sleep(acceptPause)
			}
			return nil, err
		}
		from := addrPort(c.RemoteAddr()).Addr()
		if !l.room.take(from) {
			c.Close()
			continue
		}
		out := &counted{Conn: c, listener: l, from: from, waiting: make(chan struct{}, maxPipelined), writing: make(chan struct{}, 1)}
		l.mu.Lock()
		l.open[out] = struct{}{}
		l.mu.Unlock()
		return out, nil
	}
}

// forget makes room for another connection.
func (l *limited) forget(c *counted) {
	l.mu.Lock()
	_, open := l.open[c]
	delete(l.open, c)
	l.mu.Unlock()
	if open { // it may be closed more than once
		l.room.release(c.from)
	}
}

// closeAll closes the connections that are open.
func (l *limited) closeAll() {
	l.mu.Lock()
	open := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, c := range open {
		c.hangUp()
	}
}

// counted is a connection of a limited listener. A write ends when its client
// does not read, and ends the connection: nothing may follow a message of which
// only a part was sent.
type counted struct {
	net.Conn
	listener *limited
	from     netip.Addr

	waiting chan struct{}  // has one for each question that waits for upstreams
	running sync.WaitGroup // what answers these
	writing chan struct{}  // has one while a message is written, which has its own time
}

// peer is the address of a connection's other end, and the way to the connection:
// a handler gets that of its ResponseWriter and no more.
type peer struct {
	net.Addr
	conn *counted
}

// RemoteAddr implements net.Conn.
func (c *counted) RemoteAddr() net.Addr { return peer{c.Conn.RemoteAddr(), c} }

// later calls fn, and returns before that is done, unless too many are not.
// It is for the goroutine that reads, which closes the connection in the end.
func (c *counted) later(fn func()) {
	c.waiting <- struct{}{}
	c.running.Go(func() {
		defer func() { <-c.waiting }()
		fn()
	})
}

// writeMessage writes a message behind its length.
func (c *counted) writeMessage(b []byte) error {
	if len(b) > wire.MaxMsgSize {
		return fmt.Errorf("a message of %d bytes does not fit a stream", len(b))
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...))
	return err
}

// Write implements net.Conn. b is a message.
func (c *counted) Write(b []byte) (int, error) {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	err := c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.hangUp()
	}
	return n, err
}

// Close closes the connection when all has been answered: a client may have shut
// down its side, and wait.
func (c *counted) Close() error {
	c.running.Wait()
	return c.hangUp()
}

// hangUp closes the connection now.
func (c *counted) hangUp() error {
	err := c.Conn.Close()
	c.listener.forget(c)
	return err
}
