package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// dialer opens a connection as a pod.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// reply is what became of one connection.
type reply struct {
	// Pod is who answered, "shop/cart".
	Pod string `json:"pod,omitempty"`
	// Seen is the client as the pod saw it, Local as it saw itself.
	Seen  netip.AddrPort `json:"seen"`
	Local netip.AddrPort `json:"local"`
	Error string         `json:"error,omitempty"` // why there was no answer
}

// flooded is what became of many requests.
type flooded struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Error is of the first one that failed.
	Error string `json:"error,omitempty"`
	// Longest is how long a client waited for an answer at most.
	Longest time.Duration  `json:"longest"`
	Pods    map[string]int `json:"pods"` // answers by pod
}

// loadClients is how many clients load a service.
const loadClients = 4

// answer says to everybody who connects the pod's name and the client's
// address. To who then says "echo N", it sends back the N bytes that follow, as
// they come. It returns when l is closed and all are served.
func answer(l net.Listener, name string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			if _, err := fmt.Fprintln(c, name, c.RemoteAddr()); err != nil {
				return
			}
			var n int64
			r := bufio.NewReaderSize(c, 256<<10)
			if _, err := fmt.Fscanf(r, "echo %d\n", &n); err != nil {
				return // the caller wanted the name only
			}
			_, _ = io.CopyN(c, r, n) // what does not come back the caller misses
		})
	}
}

// greeting reads what answer says first: a name, and the client as it is seen. The
// built-in server has some more words between.
func greeting(c net.Conn, r *bufio.Reader) (out reply, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return reply{}, err
	}
	words := strings.Fields(line)
	if len(words) < 2 {
		return reply{}, fmt.Errorf("%q is no answer of a pod", line)
	}
	if out.Seen, err = netip.ParseAddrPort(words[len(words)-1]); err != nil {
		return reply{}, fmt.Errorf("%q is no answer of a pod", line)
	}
	out.Pod = words[0]
	out.Local, err = netip.ParseAddrPort(c.LocalAddr().String())
	return out, err
}

// ask connects n times and returns what became of each. No connection may take
// longer than limit.
func ask(ctx context.Context, dial dialer, to netip.AddrPort, n int, limit time.Duration) (all []reply) {
	for range n {
		r, err := request(ctx, dial, to, limit, 0)
		if err != nil {
			r.Error = err.Error()
		}
		all = append(all, r)
	}
	return all
}

// request connects, has size bytes echoed, and closes.
func request(ctx context.Context, dial dialer, to netip.AddrPort, limit time.Duration, size int) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return reply{}, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return reply{}, err
	}
	r := bufio.NewReader(c)
	out, err := greeting(c, r)
	if err != nil || size == 0 {
		return out, err
	}
	body := strings.Repeat("x", size)
	if _, err := fmt.Fprintf(c, "echo %d\n%s", size, body); err != nil {
		return out, err
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(r, got); err != nil {
		return out, err
	}
	if string(got) != body {
		return out, errors.New("what came back is not what was sent")
	}
	return out, nil
}

// healthy asks what load balancers ask a node, and returns the status code.
func healthy(ctx context.Context, dial dialer, at netip.AddrPort) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+at.String()+"/healthz", nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// flood sends requests, as several clients, until end is closed. Those under
// way are finished.
func flood(dial dialer, to netip.AddrPort, end <-chan struct{}) flooded {
	var mu sync.Mutex
	sum := flooded{Pods: map[string]int{}}
	var wg sync.WaitGroup
	for range loadClients {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(time.Millisecond):
				}
				start := time.Now()
				r, err := request(context.Background(), dial, to, 10*time.Second, 64)
				mu.Lock()
				sum.Requests++
				sum.Longest = max(sum.Longest, time.Since(start))
				if err == nil {
					sum.Pods[r.Pod]++
				} else if sum.Failed++; sum.Error == "" {
					sum.Error = err.Error()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return sum
}

// stream sends bytes to answer, receives them again at the same time, and
// compares checksums. Halfway through it calls half, if that is not nil.
func stream(ctx context.Context, dial dialer, to netip.AddrPort, bytes int64, half func()) error {
	c, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, 256<<10)
	if _, err := r.ReadString('\n'); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "echo %d\n", bytes); err != nil {
		return err
	}
	got := sha256.New()
	received := make(chan error, 1)
	go func() {
		n, err := io.CopyN(got, r, bytes)
		if err != nil {
			err = fmt.Errorf("%d of %d bytes came back: %w", n, bytes, err)
		}
		received <- err
	}()
	sent, err := upload(c, bytes, half)
	if err != nil {
		c.Close() // ends the receiver
		<-received
		return err
	}
	if err := <-received; err != nil {
		return err
	}
	if string(sent) != string(got.Sum(nil)) {
		return fmt.Errorf("the sha256 of what came back is another one than of what was sent")
	}
	return nil
}

// upload sends bytes and returns their sha256. Halfway through it calls half,
// if that is not nil.
func upload(w io.Writer, bytes int64, half func()) ([]byte, error) {
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for i := int64(0); i < bytes; i += int64(len(buf)) {
		if half != nil && i >= bytes/2 {
			half()
			half = nil
		}
		for k := range 8 { // other bytes in every block
			buf[k] = byte(i >> (8 * k))
		}
		n := min(int64(len(buf)), bytes-i)
		sum.Write(buf[:n])
		if _, err := w.Write(buf[:n]); err != nil {
			return nil, fmt.Errorf("after %d of %d bytes: %w", i, bytes, err)
		}
	}
	return sum.Sum(nil), nil
}
