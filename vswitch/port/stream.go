package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// StreamConfig describes a stream port.
type StreamConfig struct {
	// Path of the unix socket. Whoever may connect to it is the virtual
	// machine: the permissions of its directory decide.
	Path string
	// MTU in bytes of the machine's interface; 0 is 1500.
	MTU int
	// Redial makes DialStream connect again, that often, when the machine is not
	// there yet or any more. 0: the port ends with the connection.
	Redial time.Duration
}

// Stream is a unix stream socket that carries frames as QEMU's
// -netdev stream,addr.type=unix does. It is a Port and a Notifier. Frames are
// complete; the machine is offered no offloads.
type Stream struct {
	pump
	cfg      StreamConfig
	listener net.Listener // nil: we connected

	mu   sync.Mutex
	conn net.Conn // nil: nobody is there
	done bool
	quit chan struct{} // closed with done
}

// ListenStream waits at cfg.Path for a machine (QEMU with server=off). When the
// machine is restarted it may connect again; the newest connection is the one
// that counts. While nobody is connected, packets are dropped as TxDown.
func ListenStream(cfg StreamConfig) (*Stream, error) {
	if err := removeStale(cfg.Path); err != nil {
		return nil, fmt.Errorf("stream port: %w", err)
	}
	l, err := net.Listen("unix", cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("stream port: %w", err)
	}
	s := &Stream{cfg: cfg, listener: l, quit: make(chan struct{})}
	s.init(cfg.MTU)
	go s.accept()
	go s.send()
	return s, nil
}

// DialStream connects to a machine that listens at cfg.Path (QEMU with
// server=on). Without Redial, the machine must be there, and the port dies with
// the connection.
func DialStream(cfg StreamConfig) (*Stream, error) {
	c, err := net.Dial("unix", cfg.Path)
	if err != nil && cfg.Redial == 0 {
		return nil, fmt.Errorf("stream port: %w", err)
	}
	s := &Stream{cfg: cfg, quit: make(chan struct{})}
	s.init(cfg.MTU)
	if err == nil {
		s.connected(c)
	} else {
		go s.redial()
	}
	go s.send()
	return s, nil
}

// redial connects again, as soon as the machine is there.
func (s *Stream) redial() {
	again := time.NewTicker(s.cfg.Redial)
	defer again.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-again.C:
		}
		if c, err := net.Dial("unix", s.cfg.Path); err == nil {
			s.connected(c)
			return
		}
	}
}

// Close ends the port and its connection, and removes a socket it listened on.
func (s *Stream) Close() error {
	s.end(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done {
		s.done = true
		close(s.quit)
	}
	if s.listener != nil {
		s.listener.Close()
	}
	if s.conn != nil {
		s.conn.Close()
	}
	return nil
}

func (s *Stream) accept() {
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: they come back
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.connected(c)
	}
}

// connected makes c the machine.
func (s *Stream) connected(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		c.Close()
		return
	}
	if s.conn != nil {
		s.conn.Close()
		s.disconnected()
	}
	s.conn = c
	s.up.Store(true)
	go s.receive(c)
}

// lost ends the connection c, and the port if it was its only one.
func (s *Stream) lost(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return // a newer one has taken its place
	}
	s.conn = nil
	if s.listener == nil && s.cfg.Redial == 0 {
		s.end(false)
		return
	}
	s.disconnected()
	if s.listener == nil && !s.done {
		go s.redial()
	}
}

func (s *Stream) receive(c net.Conn) {
	defer s.lost(c)
	d := deframer{buf: make([]byte, streamBuf)}
	for {
		n, err := c.Read(d.space())
		d.wrote(n)
		for {
			frame, ok, bad := d.next()
			if bad != nil {
				s.rxInvalid.Add(1)
				return
			}
			if !ok {
				break
			}
			if !s.deliver(frame) {
				return
			}
		}
		if err != nil {
			if d.start != d.end {
				s.rxShort.Add(1) // it broke off within a frame
			}
			return
		}
	}
}

// send writes what is queued, as much as there is with one call.
func (s *Stream) send() {
	buf := make([]byte, 0, streamBuf)
	frames := 0
	gather := func(frame []byte) bool {
		if len(buf)+prefixLen+len(frame) > cap(buf) {
			return false
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(frame)))
		buf = append(buf, frame...)
		frames++
		return true
	}
	for s.next(gather) {
		s.mu.Lock()
		c := s.conn
		s.mu.Unlock()
		if c == nil {
			s.txDown.Add(uint64(frames))
		} else if _, err := c.Write(buf); err != nil {
			s.txDown.Add(uint64(frames))
			s.lost(c)
		}
		buf, frames = buf[:0], 0
	}
}
