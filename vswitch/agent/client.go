package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
)

// Client calls a node's API.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the node whose API is served at the unix
// socket. Nothing is dialled before the first call.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks the node about itself.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, "GET", "/v1/status", nil, &s)
}

// WaitDesired waits until the node goes by a desired state that is at least as
// new as revision, and returns the one that it goes by.
func (c *Client) WaitDesired(ctx context.Context, revision uint64) (s Desired, err error) {
	return s, c.call(ctx, "GET", "/v1/desired?revision="+strconv.FormatUint(revision, 10), nil, &s)
}

// WaitDrained waits until no connection to a pod is left that is young; see
// Node.Drain. A pod that is not attached has none.
func (c *Client) WaitDrained(ctx context.Context, namespace, name string) error {
	return c.call(ctx, "GET", podPath(namespace, name)+"/drained", nil, nil)
}

// AttachPod attaches a pod, or confirms that it is attached.
func (c *Client) AttachPod(ctx context.Context, r PodRequest) (s PodStatus, err error) {
	return s, c.call(ctx, "PUT", podPath(r.Namespace, r.Name), r, &s)
}

// DetachPod detaches a pod; one that is not attached is no error.
func (c *Client) DetachPod(ctx context.Context, namespace, name string) error {
	return c.call(ctx, "DELETE", podPath(namespace, name), nil, nil)
}

// AttachOwn attaches the node port, or confirms that it is attached.
func (c *Client) AttachOwn(ctx context.Context, r PortRequest) (s PortStatus, err error) {
	return s, c.call(ctx, "PUT", "/v1/ports/node", r, &s)
}

// DetachOwn detaches the node port; one that is not attached is no error.
func (c *Client) DetachOwn(ctx context.Context) error {
	return c.call(ctx, "DELETE", "/v1/ports/node", nil, nil)
}

// AttachOutside attaches the outside port, or confirms that it is attached.
func (c *Client) AttachOutside(ctx context.Context, r OutsideRequest) (s OutsideStatus, err error) {
	return s, c.call(ctx, "PUT", "/v1/ports/outside", r, &s)
}

// Pods lists all pods the node knows of, its own first.
func (c *Client) Pods(ctx context.Context) (s []PodStatus, err error) {
	return s, c.call(ctx, "GET", "/v1/pods", nil, &s)
}

// Nodes lists the nodes this one knows of, itself first.
func (c *Client) Nodes(ctx context.Context) (s []NodeStatus, err error) {
	return s, c.call(ctx, "GET", "/v1/nodes", nil, &s)
}

// Routes lists the forwarding table.
func (c *Client) Routes(ctx context.Context) (s []Route, err error) {
	return s, c.call(ctx, "GET", "/v1/routes", nil, &s)
}

// Neighbors lists the ARP and ND tables.
func (c *Client) Neighbors(ctx context.Context) (s []Neighbor, err error) {
	return s, c.call(ctx, "GET", "/v1/neighbors", nil, &s)
}

// Flows lists the tracked connections.
func (c *Client) Flows(ctx context.Context) (s []FlowStatus, err error) {
	return s, c.call(ctx, "GET", "/v1/flows", nil, &s)
}

// Policies tells what the node has to do with network policy; reports on the
// policies take a moment, and are left out unless asked for.
func (c *Client) Policies(ctx context.Context, reports bool) (s PolicyState, err error) {
	return s, c.call(ctx, "GET", "/v1/policies?reports="+strconv.FormatBool(reports), nil, &s)
}

// Trace asks what would become of a packet on this node.
func (c *Client) Trace(ctx context.Context, r TraceRequest) (s TraceResult, err error) {
	return s, c.call(ctx, "POST", "/v1/trace", r, &s)
}

// Keys lists the gossip keys of all live nodes.
func (c *Client) Keys(ctx context.Context) (s []KeyStatus, err error) {
	return s, c.call(ctx, "GET", "/v1/keys", nil, &s)
}

// ChangeKey changes the gossip keyring of all live nodes; verb is install, use,
// remove or rotate. It fails unless all of them did it.
func (c *Client) ChangeKey(ctx context.Context, verb string, r KeyRequest) (s []KeyStatus, err error) {
	return s, c.call(ctx, "POST", "/v1/keys/"+url.PathEscape(verb), r, &s)
}

// Capture streams pcapng of one port, or of all if port is empty, until ctx
// ends or the reader is closed.
func (c *Client) Capture(ctx context.Context, port string) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/capture", url.Values{"port": {port}})
}

// Sights streams the packets that are seen at one port, or at all if port is
// empty, to see, until ctx ends. It returns once the node captures; the stream
// goes on in the background, and done is closed when it has ended.
func (c *Client) Sights(ctx context.Context, port string, see func(Sight)) (done <-chan struct{}, err error) {
	body, err := c.stream(ctx, "/v1/sights", url.Values{"port": {port}})
	if err != nil {
		return nil, err
	}
	return lines(body, see), nil
}

// Events streams what becomes of packets, as far as f wants it, to see, until
// ctx ends. It returns once the node watches; the stream goes on in the
// background, and done is closed when it has ended.
func (c *Client) Events(ctx context.Context, f EventFilter, see func(Event)) (done <-chan struct{}, err error) {
	q := url.Values{"reason": f.Reasons}
	for _, v := range f.Verdicts {
		q.Add("verdict", string(v))
	}
	body, err := c.stream(ctx, "/v1/events", q)
	if err != nil {
		return nil, err
	}
	return lines(body, see), nil
}

// lines decodes what comes, a value a line, until the stream ends. Then it
// closes done.
func lines[T any](body io.ReadCloser, see func(T)) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer body.Close()
		for d := json.NewDecoder(body); ; {
			var v T
			if d.Decode(&v) != nil {
				return
			}
			see(v)
		}
	}()
	return ended
}

func (c *Client) stream(ctx context.Context, path string, q url.Values) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://node"+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.request(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, apiError(resp)
	}
	return resp.Body, nil
}

// request sends a request to whoever serves the socket.
func (c *Client) request(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no node serves %s; start it, or name the %s in the runtimeDir of one that runs", c.socket, SocketName)
	}
	return resp, err
}

func podPath(namespace, name string) string {
	return "/v1/pods/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.request(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return apiError(resp)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func apiError(resp *http.Response) error {
	var e Error
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e) == nil && e.Message != "" {
		return fmt.Errorf("%s", e.Message)
	}
	return fmt.Errorf("node API: %s", resp.Status)
}
