package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/lab/sctp"
)

// builtIn is the server that stands for a container without a command, so that
// any manifest can be tried as it is. On each of its ports it answers a line
// that says who answers whom: "shop/web-1 on node1, client 10.244.1.5:40404".
type builtIn struct {
	Pod  string   `json:"pod"`
	Node string   `json:"node"`
	TCP  []uint16 `json:"tcp,omitempty"`
	UDP  []uint16 `json:"udp,omitempty"`
	SCTP []uint16 `json:"sctp,omitempty"`

	sctp sctp.Conns // nil: SCTP is the kernel's, or not served
}

// silence is how long a client may say nothing before it is taken for one that
// waits for the server to speak, like nc. A request may come this late that was
// sent again, or that waited while its node's process started again; a line that
// is spoken before it would be taken for a broken HTTP server.
const silence = 3 * time.Second

func (s *builtIn) answer(client fmt.Stringer) string {
	return fmt.Sprintf("%s on %s, client %s\n", s.Pod, s.Node, client)
}

// drain bounds how long the server finishes what it has begun when it is told to
// end.
const drain = time.Second

// serve listens on all ports, calls ready, and serves until the process is told
// to end; then it answers the requests that it has, and ends the process. It
// returns only if it cannot listen.
func (s *builtIn) serve(ready func()) error {
	web := &handover{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(s.serveHTTP), ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(web)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	go func() {
		<-signals
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		server.Shutdown(ctx)
		os.Exit(0)
	}()
	for _, port := range s.TCP {
		// A wildcard address takes clients of both families.
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(int(port)))
		if err != nil {
			return fmt.Errorf("built-in server: %w", err)
		}
		go s.serveTCP(ln, web)
	}
	for _, port := range s.UDP {
		conn, err := net.ListenPacket("udp", ":"+strconv.Itoa(int(port)))
		if err != nil {
			return fmt.Errorf("built-in server: %w", err)
		}
		go s.serveUDP(conn)
	}
	if err := s.listenSCTP(web); err != nil {
		return fmt.Errorf("built-in server: %w", err)
	}
	fmt.Printf("built-in server of %s: %s\n", s.Pod, s.ports())
	ready()
	for { // without a port, a select would be taken for a deadlock
		time.Sleep(time.Hour)
	}
}

// ports are those that it serves, for people: "TCP 80 443, UDP 53".
func (s *builtIn) ports() string {
	var parts []string
	for _, p := range []struct {
		proto string
		list  []uint16
	}{{"TCP", s.TCP}, {"UDP", s.UDP}, {"SCTP", s.SCTP}} {
		if len(p.list) > 0 {
			parts = append(parts, p.proto+" "+strings.Trim(fmt.Sprint(p.list), "[]"))
		}
	}
	if len(parts) == 0 {
		return "no ports"
	}
	return strings.Join(parts, ", ")
}

// openSCTP makes what it takes to serve SCTP on a kernel that has none. Where
// that is not allowed, the log says so, and all else is served.
func (s *builtIn) openSCTP() {
	if len(s.SCTP) == 0 || sctp.InKernel() {
		return
	}
	var err error
	if s.sctp, err = sctp.Open(); err != nil {
		fmt.Printf("built-in server of %s: SCTP %v is not served: the kernel has no SCTP, and this container may not have it by a raw socket (%v)\n", s.Pod, s.SCTP, err)
		s.SCTP = nil
	}
}

// listenSCTP serves SCTP by the raw sockets, else by the kernel's own.
func (s *builtIn) listenSCTP(web *handover) error {
	if s.sctp != nil {
		for _, port := range s.SCTP {
			if _, err := sctp.Claim(port); err != nil { // for good
				return err
			}
		}
		answer := func(_ uint16, client netip.AddrPort) []byte { return []byte(s.answer(client)) }
		go sctp.New(s.SCTP, answer).Serve(s.sctp)
		return nil
	}
	for _, port := range s.SCTP {
		ln, err := sctp.Listen(port)
		if err != nil {
			return err
		}
		go s.serveTCP(ln, web)
	}
	return nil
}

// serveTCP serves TCP, and the kernel's SCTP, which is used alike.
func (s *builtIn) serveTCP(ln net.Listener, web *handover) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		go func() {
			c := &bufferedConn{Conn: conn, r: bufio.NewReader(conn)}
			c.SetReadDeadline(time.Now().Add(silence))
			asks := beginsHTTP(c.r)
			c.SetReadDeadline(time.Time{})
			if asks {
				web.take(c)
				return
			}
			s.serveOther(c)
		}()
	}
}

// serveOther answers a client that does not speak HTTP: at once when it is
// silent, else each time it says something.
func (s *builtIn) serveOther(c *bufferedConn) {
	defer c.Close()
	if c.r.Buffered() == 0 {
		io.WriteString(c, s.answer(c.RemoteAddr()))
		return
	}
	buf := make([]byte, 4096)
	for {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.r.Read(buf); err != nil {
			return
		}
		if _, err := io.WriteString(c, s.answer(c.RemoteAddr())); err != nil {
			return
		}
	}
}

func (s *builtIn) serveHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%s on %s, client %s\n", s.Pod, s.Node, r.RemoteAddr)
}

func (s *builtIn) serveUDP(conn net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		conn.WriteTo([]byte(s.answer(from)), from)
	}
}

// beginsHTTP reports whether a stream begins an HTTP request. It waits for no more
// bytes than it takes to know.
func beginsHTTP(r *bufio.Reader) bool {
	methods := []string{"GET ", "HEAD", "POST", "PUT ", "DELE", "OPTI", "PATC", "CONN", "TRAC", "PRI "}
	for n := 1; n <= 4; n++ {
		first, err := r.Peek(n)
		if err != nil || !slices.ContainsFunc(methods, func(m string) bool { return strings.HasPrefix(m, string(first)) }) {
			return false
		}
	}
	return true
}

// bufferedConn is a connection of which something was read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// handover is a listener whose connections were accepted elsewhere.
type handover struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// take gives the listener a connection. One that comes after the end is closed.
func (h *handover) take(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		c.Close()
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }
