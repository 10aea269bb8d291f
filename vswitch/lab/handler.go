package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
)

// dialer connects from where probes are made.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// maxAnswer is how much of an answer is read, bytes (the kubelet's bound).
const maxAnswer = 10 << 10

// maxRedirects is how many redirects are followed within a host.
const maxRedirects = 10

// portNumber returns the port that a handler of a container means.
func portNumber(c *cluster.Container, number uint16, name string) (uint16, error) {
	if name == "" {
		return number, nil
	}
	for _, p := range c.Ports {
		if p.Name == name {
			return p.Port, nil
		}
	}
	return 0, fmt.Errorf("no port of container %s is called %s", c.Name, name)
}

// askTCP finds a container healthy if the port accepts a connection.
func askTCP(ctx context.Context, dial dialer, addr string) finding {
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		return finding{sick, err.Error()}
	}
	conn.Close()
	return finding{outcome: healthy}
}

// askHTTP finds a container healthy if it answers with a status from 200 to 399
// (pkg/probe/http). Certificates are not verified, and a redirect to another
// host is success that is warned of.
func askHTTP(ctx context.Context, dial dialer, get *cluster.HTTPGet, host string, port uint16) finding {
	c := newHTTPClient(dial)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	return askHTTPBy(ctx, c, get, host, port)
}

// newHTTPClient returns a client as probes want it, which keeps its connections.
func newHTTPClient(dial dialer) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return nil
		},
	}
}

// askHTTPBy is askHTTP by a client that there is already.
func askHTTPBy(ctx context.Context, client *http.Client, get *cluster.HTTPGet, host string, port uint16) finding {
	req, err := newRequest(ctx, get, net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return finding{noAnswer, err.Error()}
	}
	resp, err := client.Do(req)
	if err != nil {
		return finding{sick, withoutMethod(err)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return finding{sick, fmt.Sprintf("%s: %v", req.URL, err)}
	case resp.StatusCode < 200 || resp.StatusCode >= 400:
		why := fmt.Sprintf("%s says %s", req.URL, resp.Status)
		if line := firstLine(body); line != "" {
			why += ": " + line
		}
		return finding{sick, why}
	case resp.StatusCode >= 300:
		return finding{healthy, fmt.Sprintf("%s leads to another host, which is not asked: %s", req.URL, resp.Header.Get("Location"))}
	}
	return finding{outcome: healthy}
}

// newRequest makes the request of a handler.
func newRequest(ctx context.Context, get *cluster.HTTPGet, host string) (*http.Request, error) {
	u, err := url.Parse(get.Path)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", get.Path, errors.Unwrap(err))
	}
	u.Scheme, u.Host = "http", host
	if get.HTTPS {
		u.Scheme = "https"
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, "GET", u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "vswitch-probe/"+agent.Version)
	req.Header.Set("Accept", "*/*")
	given := map[string]bool{}
	for _, h := range get.Headers {
		switch name := http.CanonicalHeaderKey(h[0]); {
		case name == "Host":
			req.Host = h[1]
		case given[name]:
			req.Header.Add(name, h[1])
		default: // in place of ours
			req.Header.Set(name, h[1])
			given[name] = true
		}
	}
	return req, nil
}

// withoutMethod is the text of a client's error without Go's way to quote it.
func withoutMethod(err error) string {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.URL + ": " + e.Err.Error()
	}
	return err.Error()
}

// firstLine is the first line of what somebody said, cut to what a person reads.
func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	if len(line) > 200 {
		line = append(line[:200:200], " ..."...)
	}
	return strings.ToValidUTF8(string(line), "?")
}
