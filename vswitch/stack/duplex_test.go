package stack

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// echoes runs full-duplex streams from s to the echo service at to: each writes
// n random bytes and reads them back at the same time.
func echoes(t *testing.T, s *Stack, to string, streams int, n int64, limit time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range streams {
		c, err := s.DialContext(limited(t), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		sent, got := sha256.New(), sha256.New()
		wg.Go(func() {
			src := io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), n)
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(c, sent)}, src, make([]byte, 64<<10)); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
			c.(*TCPConn).CloseWrite()
		})
		wg.Go(func() {
			m, err := io.CopyBuffer(got, struct{ io.Reader }{c}, make([]byte, 64<<10))
			if err != nil || m != n {
				t.Errorf("stream %d: received %d bytes of %d: %v", i, m, n, err)
			}
		})
		defer func() {
			if string(sent.Sum(nil)) != string(got.Sum(nil)) {
				t.Errorf("stream %d: other bytes came back", i)
			}
		}()
	}
	wg.Wait()
}

// serveEcho serves TCP echo at an address of s.
func serveEcho(t *testing.T, s *Stack, address string) {
	t.Helper()
	l, err := s.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 64<<10))
			}()
		}
	}()
}

// small returns two stacks with queues of so many packets, joined by a wire.
func small(t *testing.T, queue int) *wire {
	t.Helper()
	w := &wire{}
	for i := range w.ends {
		s, err := New(Config{
			Name: "test/pod", MAC: macs[i], MTU: 1450, Queue: queue,
			Addrs: []netip.Prefix{netip.PrefixFrom(addrs4[i], 24), netip.PrefixFrom(addrs6[i], 64)},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.ends[i] = s
	}
	w.run(t)
	return w
}

// TestDuplex: streams that run full in both directions end, whether packets
// find the queue full or not.
func TestDuplex(t *testing.T) {
	for _, c := range []struct {
		queue int
		bytes int64
	}{{DefaultQueue, 4 << 20}, {256, 1 << 20}} {
		for _, to := range []netip.Addr{addrs4[1], addrs6[1]} {
			t.Run(fmt.Sprintf("queue_%d/%v", c.queue, to), func(t *testing.T) {
				w := small(t, c.queue)
				serveEcho(t, w.ends[1], ":7")
				echoes(t, w.ends[0], netip.AddrPortFrom(to, 7).String(), 32, c.bytes, time.Minute)
			})
		}
	}
}
