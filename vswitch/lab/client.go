package lab

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
	"path/filepath"
	"strconv"
	"syscall"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// Client speaks to the supervisor of a running cluster. Start and Open make
// one. Its methods are safe for concurrent use.
type Client struct {
	name string
	dir  string
	http http.Client

	// Of the caller that started the cluster and did not detach.
	held *holder
}

func newClient(name, dir string) *Client {
	c := &Client{name: name, dir: dir}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, apiSocket))
		},
	}
	return c
}

// Name returns the cluster's name, and Dir its runtime directory.
func (c *Client) Name() string { return c.name }

// Dir returns the cluster's runtime directory.
func (c *Client) Dir() string { return c.dir }

// Status sums the cluster up.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, "GET", "/v1/status", nil, &s)
}

// State returns all objects as they are now.
func (c *Client) State(ctx context.Context) (s State, err error) {
	return s, c.call(ctx, "GET", "/v1/state", nil, &s)
}

// Watch waits until there is a State newer than a revision and returns it.
func (c *Client) Watch(ctx context.Context, after uint64) (s State, err error) {
	return s, c.call(ctx, "GET", "/v1/state?after="+strconv.FormatUint(after, 10), nil, &s)
}

// Events returns the events as they are now.
func (c *Client) Events(ctx context.Context) (l control.EventList, err error) {
	return l, c.call(ctx, "GET", "/v1/events", nil, &l)
}

// WatchEvents waits until events are newer than a revision of theirs and returns
// them.
func (c *Client) WatchEvents(ctx context.Context, after uint64) (l control.EventList, err error) {
	return l, c.call(ctx, "GET", "/v1/events?after="+strconv.FormatUint(after, 10), nil, &l)
}

// Pods returns all pods, by namespace and name.
func (c *Client) Pods(ctx context.Context) ([]*cluster.Pod, error) {
	s, err := c.State(ctx)
	return s.Pods, err
}

// Nodes returns the node processes, the oldest first.
func (c *Client) Nodes(ctx context.Context) (n []Node, err error) {
	return n, c.call(ctx, "GET", "/v1/nodes", nil, &n)
}

// Agent returns a client of a node's own API, or of the first ready one's if
// name is empty. Close it after use.
func (c *Client) Agent(ctx context.Context, name string) (*agent.Client, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if n.Name == name || name == "" && n.Ready {
			return agent.NewClient(n.Socket), nil
		}
	}
	if name == "" {
		return nil, failure(ErrConflict, "no node of cluster %s is ready", c.name)
	}
	return nil, failure(ErrNotFound, "there is no node %s", name)
}

// Policies tells what each node has to do with network policy, by name. Nodes
// that are not ready are left out, and so are reports unless asked for.
func (c *Client) Policies(ctx context.Context, reports bool) (s []agent.PolicyState, err error) {
	return s, c.call(ctx, "GET", "/v1/policies?reports="+strconv.FormatBool(reports), nil, &s)
}

// KillNode kills the process of a node, which is then started again.
func (c *Client) KillNode(ctx context.Context, name string) error {
	return c.changeNode(ctx, name, "kill")
}

// StopNode kills the process of a node and keeps it down.
func (c *Client) StopNode(ctx context.Context, name string) error {
	return c.changeNode(ctx, name, "stop")
}

// StartNode lets a node that StopNode took down run again.
func (c *Client) StartNode(ctx context.Context, name string) error {
	return c.changeNode(ctx, name, "start")
}

// AddNode adds a node to the cluster and starts its process.
func (c *Client) AddNode(ctx context.Context, name string) error {
	return c.call(ctx, "POST", "/v1/nodes/"+url.PathEscape(name), nil, nil)
}

func (c *Client) changeNode(ctx context.Context, name, verb string) error {
	return c.call(ctx, "POST", "/v1/nodes/"+url.PathEscape(name)+"/"+verb, nil, nil)
}

// Apply makes objects the desired ones, as kubectl apply does, and says what
// became of each. Either all of it happens or, with ErrInput, nothing.
func (c *Client) Apply(ctx context.Context, o *cluster.Objects) ([]control.Result, error) {
	return c.ApplyWith(ctx, o, control.ApplyOptions{})
}

// ApplyWith is Apply with options.
func (c *Client) ApplyWith(ctx context.Context, o *cluster.Objects, opts control.ApplyOptions) (r []control.Result, err error) {
	return r, c.call(ctx, "POST", "/v1/apply", applyRequest{o, opts}, &r)
}

// Isolate stores policies that could not be understood (kube.StandIns), so that
// the pods which they select are isolated until somebody corrects or deletes
// them. Policies that are there, and were understood, stay as they are.
func (c *Client) Isolate(ctx context.Context, o *cluster.Objects) (r []control.Result, err error) {
	return r, c.call(ctx, "POST", "/v1/isolate", o, &r)
}

// WaitInForce waits until the data planes of all nodes that are ready go by the
// State of now, for at most ten seconds. The error names a node that does not.
func (c *Client) WaitInForce(ctx context.Context) error {
	return c.call(ctx, "GET", "/v1/inforce", nil, nil)
}

// Delete removes objects; their pods are told to end. Those that are there are
// removed, whatever the error says of the others.
func (c *Client) Delete(ctx context.Context, refs []cluster.Ref) error {
	_, err := c.DeleteEach(ctx, refs)
	return err
}

// DeleteEach is Delete, and says what was removed, with an error, too.
func (c *Client) DeleteEach(ctx context.Context, refs []cluster.Ref) (r []control.Result, err error) {
	err = c.call(ctx, "POST", "/v1/delete", refs, &r)
	if p := (*partialError)(nil); errors.As(err, &p) {
		return p.results, p.error
	}
	return r, err
}

// Logs streams a log as text. Close it after use.
func (c *Client) Logs(ctx context.Context, r LogRequest) (io.ReadCloser, error) {
	options, err := json.Marshal(r.LogOptions)
	if err != nil {
		return nil, err
	}
	q := url.Values{"options": {string(options)}}
	for k, v := range map[string]string{"node": r.Node, "namespace": r.Namespace, "pod": r.Pod, "container": r.Container} {
		if v != "" {
			q.Set(k, v)
		}
	}
	resp, err := c.do(ctx, "GET", "/v1/logs?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// do sends a request and turns an answer that is an error into one.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("cluster %s: %w", c.name, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.name, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e apiError
	if json.NewDecoder(resp.Body).Decode(&e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	err = errorOf(resp.StatusCode, e.Message)
	if len(e.Results) > 0 {
		err = &partialError{err, e.Results}
	}
	return nil, err
}
