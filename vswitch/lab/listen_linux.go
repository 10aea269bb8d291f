package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// listeners are the sockets that the supervisor serves.
type listeners struct {
	http *http.Server
	exec *net.UnixListener
}

func (l *listeners) close() {
	l.http.Close()
	l.exec.Close()
}

// listen opens the sockets and serves them.
func (s *supervisor) listen() (*listeners, error) {
	api, err := listenUnix(filepath.Join(s.dir, apiSocket))
	if err != nil {
		return nil, err
	}
	exec, err := listenUnix(filepath.Join(s.dir, execSocket))
	if err != nil {
		api.Close()
		return nil, err
	}
	l := &listeners{exec: exec, http: &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}}
	go l.http.Serve(api)
	go s.serveExec(exec)
	return l, nil
}

func listenUnix(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("API: %w (a shorter XDG_RUNTIME_DIR helps if the path is too long)", err)
	}
	return l, os.Chmod(path, 0o600)
}

func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status(), nil) })
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.nodeStatus(), nil) })
	mux.HandleFunc("GET /v1/policies", func(w http.ResponseWriter, r *http.Request) {
		states, err := s.policies(r.Context(), r.URL.Query().Get("reports") == "true")
		answer(w, states, err)
	})
	mux.HandleFunc("GET /v1/state", s.serveState)
	mux.HandleFunc("GET /v1/events", s.serveEvents)
	mux.Handle("GET "+control.FeedPath, control.Feed(s.store))
	mux.HandleFunc("GET /v1/inforce", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.inForce(r.Context(), s.store.State().Revision))
	})
	mux.HandleFunc("GET /v1/logs", s.serveLogs)
	mux.HandleFunc("POST /v1/apply", func(w http.ResponseWriter, r *http.Request) {
		req := applyRequest{Objects: &cluster.Objects{}}
		if decode(w, r, &req) {
			results, err := s.apply(req.Objects, req.Options)
			answer(w, results, err)
		}
	})
	mux.HandleFunc("POST /v1/isolate", func(w http.ResponseWriter, r *http.Request) {
		var o cluster.Objects
		if decode(w, r, &o) {
			results, err := s.isolate(&o)
			answer(w, results, err)
		}
	})
	mux.HandleFunc("POST /v1/delete", func(w http.ResponseWriter, r *http.Request) {
		var refs []cluster.Ref
		if decode(w, r, &refs) {
			results, err := s.delete(refs)
			answer(w, results, err)
		}
	})
	mux.HandleFunc("POST /v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.addNode(r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/nodes/{name}/{verb}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.changeNode(r.Context(), r.PathValue("name"), r.PathValue("verb")))
	})
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) {
		s.down()
		<-s.gone
		answer(w, struct{}{}, nil)
	})
	return mux
}

// decode reads a JSON body strictly; it answers the request itself if it cannot.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		answer(w, nil, failure(ErrInput, "%v", err))
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		results, _ := v.([]control.Result)
		v = apiError{err.Error(), results}
		w.WriteHeader(statusOf(err))
	}
	json.NewEncoder(w).Encode(v)
}

// changeNode kills, stops or starts the process of a node.
func (s *supervisor) changeNode(ctx context.Context, name, verb string) error {
	n := s.node(name)
	if n == nil {
		return failure(ErrNotFound, "there is no node %s", name)
	}
	switch verb {
	case "kill":
		return n.kill(ctx, false)
	case "stop":
		return n.kill(ctx, true)
	case "start":
		n.release()
		return nil
	}
	return failure(ErrInput, "a node can be told to kill, stop or start, not %q", verb)
}

// serveState answers with all objects, once there is a State newer than asked.
func (s *supervisor) serveState(w http.ResponseWriter, r *http.Request) {
	if after := r.URL.Query().Get("after"); after != "" {
		rev, err := strconv.ParseUint(after, 10, 64)
		if err != nil {
			answer(w, nil, failure(ErrInput, "after: %v", err))
			return
		}
		watch := s.store.Watch()
		defer watch.Close()
		for s.store.State().Revision <= rev {
			select {
			case <-watch.C():
				watch.Next()
			case <-r.Context().Done():
				return
			case <-s.ctx.Done():
				answer(w, nil, failure(ErrConflict, "the cluster goes down"))
				return
			}
		}
	}
	answer(w, StateOf(s.store.State()), nil)
}

// serveEvents answers with all events, once they are newer than asked.
func (s *supervisor) serveEvents(w http.ResponseWriter, r *http.Request) {
	events := s.control.Events()
	if after := r.URL.Query().Get("after"); after != "" {
		rev, err := strconv.ParseUint(after, 10, 64)
		if err != nil {
			answer(w, nil, failure(ErrInput, "after: %v", err))
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		if events.Wait(ctx, rev) != nil {
			answer(w, nil, failure(ErrConflict, "the cluster goes down")) // or nobody listens
			return
		}
	}
	answer(w, events.List(), nil)
}

// serveLogs streams a log as text.
func (s *supervisor) serveLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var o LogOptions
	if err := json.Unmarshal([]byte(q.Get("options")), &o); err != nil {
		answer(w, nil, failure(ErrInput, "options: %v", err))
		return
	}
	log, err := s.findLog(q.Get("node"), q.Get("namespace"), q.Get("pod"), q.Get("container"), o.Previous)
	if err != nil {
		answer(w, nil, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	out := flushWriter{w, http.NewResponseController(w)}
	out.rc.Flush()
	if err := log.read(ctx, out, o); err != nil {
		s.log.Warn("log is not read to its end", "err", err)
	}
}

func (s *supervisor) findLog(node, namespace, name, container string, previous bool) (*logFile, error) {
	if node != "" {
		n := s.node(node)
		if n == nil {
			return nil, failure(ErrNotFound, "there is no node %s", node)
		}
		return n.out, nil
	}
	p, err := s.pod(namespace, name)
	if err != nil {
		return nil, err
	}
	if p.spec.NodeServes != "" {
		return nil, failure(ErrConflict, "pod %s is served by node %s itself: its log is that of the node (--node %[2]s)", p.key(), p.spec.Node)
	}
	c, err := p.container(container)
	if err != nil {
		return nil, err
	}
	return c.logOf(previous)
}

// flushWriter sends each line at once.
type flushWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	return n, errors.Join(err, f.rc.Flush())
}

// policies asks all nodes that are ready what they have to do with policy. One
// that dies meanwhile is left out.
func (s *supervisor) policies(ctx context.Context, reports bool) ([]agent.PolicyState, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s.mu.Lock()
	nodes := slices.Clone(s.nodes)
	s.mu.Unlock()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out, errs := []agent.PolicyState{}, []error(nil)
	for _, n := range nodes {
		if n.notReady() != nil {
			continue
		}
		wg.Go(func() {
			state, err := n.client.Policies(ctx, reports)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				out = append(out, state)
			case n.notReady() == nil:
				errs = append(errs, fmt.Errorf("node %s: %w", n.name, err))
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b agent.PolicyState) int { return strings.Compare(a.Node, b.Node) })
	return out, errors.Join(errs...)
}

// status sums the cluster up.
func (s *supervisor) status() Status {
	state := s.store.State()
	st := Status{Name: s.options.Name, ID: s.id, Dir: s.dir, Started: s.started, Revision: state.Revision, Nodes: s.nodeStatus(),
		Warnings: s.control.Events().Warnings()}
	st.Problems = nodeProblems(st.Nodes)
	for p := range state.Pods.All() {
		st.Pods++
		if p.Ready {
			st.Ready++
		}
		if p.Reason != "" {
			st.Failing++
			st.Problems = append(st.Problems, podProblem(p))
		}
	}
	st.Problems = append(st.Problems, serviceProblems(state)...)
	if s.options.DNS.Serve && len(s.options.Config.Services.CIDRs) == 0 {
		st.Problems = append(st.Problems, "pods have no DNS: there is no range for services, and so no address to ask; give one (--service-cidr), or say --dns=false")
	}
	return st
}

func (s *supervisor) nodeStatus() []Node {
	s.mu.Lock()
	nodes := append([]*node(nil), s.nodes...)
	s.mu.Unlock()
	out := []Node{}
	for _, n := range nodes {
		n.mu.Lock()
		ready, why := n.reported()
		st := Node{Name: n.name, Ready: ready, Reason: why, Held: n.held, Restarts: n.restarts,
			Underlay: n.under.vxlan, Gossip: n.under.gossip, Socket: n.socket(), PodCIDRs: n.status.PodCIDRs}
		if n.proc != nil {
			st.PID, st.Started = n.proc.Pid, n.started
		}
		if st.Reason != "" {
			st.Problems = []string{st.Reason}
		} else if len(n.status.Problems) > 0 {
			st.Reason, st.Problems = n.status.Problems[0], slices.Clone(n.status.Problems)
		}
		n.mu.Unlock()
		out = append(out, st)
	}
	return out
}
