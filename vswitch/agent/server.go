package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vswitch/overlay/gossip"
)

// SocketName is the name of the API's socket in the node's runtime directory.
const SocketName = "node.sock"

// serve answers the API until ctx ends.
func (n *Node) serve(ctx context.Context) error {
	path := filepath.Join(n.cfg.RuntimeDir, SocketName)
	// A socket that nobody listens on any more was left by a killed node.
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("node %s: %s is served by another process; stop it first", n.cfg.Name, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("node %s: API: %w", n.cfg.Name, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	srv := &http.Server{Handler: n.handler(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (n *Node) handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, f func() any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { answer(w, f(), nil) })
	}
	get("/v1/status", func() any { return n.Status() })
	get("/v1/pods", func() any { return n.Pods() })
	get("/v1/nodes", func() any { return n.Nodes() })
	get("/v1/routes", func() any { return n.Routes() })
	get("/v1/neighbors", func() any { return n.Neighbors() })
	get("/v1/flows", func() any { return n.Flows() })
	mux.HandleFunc("GET /v1/policies", func(w http.ResponseWriter, r *http.Request) {
		answer(w, n.PolicyState(r.URL.Query().Get("reports") == "true"), nil)
	})
	mux.HandleFunc("GET /v1/desired", func(w http.ResponseWriter, r *http.Request) {
		revision, err := strconv.ParseUint(r.URL.Query().Get("revision"), 10, 64)
		if err != nil {
			answer(w, nil, fmt.Errorf("%w: revision: %v", ErrBadRequest, err))
			return
		}
		if revision, err = n.revisions.wait(r.Context(), revision); err == nil {
			answer(w, Desired{Revision: revision}, nil)
		}
	})
	mux.HandleFunc("GET /v1/pods/{namespace}/{name}/drained", func(w http.ResponseWriter, r *http.Request) {
		if n.Drain(r.Context(), r.PathValue("namespace"), r.PathValue("name")) == nil {
			answer(w, struct{}{}, nil)
		}
	})
	mux.HandleFunc("PUT /v1/pods/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		var req PodRequest
		if !decode(w, r, &req) {
			return
		}
		if req.Namespace != r.PathValue("namespace") || req.Name != r.PathValue("name") {
			answer(w, nil, fmt.Errorf("%w: the body is about another pod than the path", ErrBadRequest))
			return
		}
		s, err := n.AttachPod(r.Context(), req)
		answer(w, s, err)
	})
	mux.HandleFunc("DELETE /v1/pods/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, n.DetachPod(r.PathValue("namespace"), r.PathValue("name")))
	})
	mux.HandleFunc("PUT /v1/ports/node", func(w http.ResponseWriter, r *http.Request) {
		var req PortRequest
		if decode(w, r, &req) {
			s, err := n.AttachOwn(req)
			answer(w, s, err)
		}
	})
	mux.HandleFunc("DELETE /v1/ports/node", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{}, n.DetachOwn())
	})
	mux.HandleFunc("PUT /v1/ports/outside", func(w http.ResponseWriter, r *http.Request) {
		var req OutsideRequest
		if decode(w, r, &req) {
			s, err := n.AttachOutside(req)
			answer(w, s, err)
		}
	})
	mux.HandleFunc("DELETE /v1/ports/outside", func(w http.ResponseWriter, _ *http.Request) {
		n.DetachOutside()
		answer(w, struct{}{}, nil)
	})
	mux.HandleFunc("POST /v1/trace", func(w http.ResponseWriter, r *http.Request) {
		var req TraceRequest
		if !decode(w, r, &req) {
			return
		}
		res, err := n.Trace(req)
		answer(w, res, err)
	})
	mux.HandleFunc("GET /v1/capture", func(w http.ResponseWriter, r *http.Request) {
		n.capture(r.Context(), w, r.URL.Query().Get("port"))
	})
	mux.HandleFunc("GET /v1/sights", func(w http.ResponseWriter, r *http.Request) {
		n.sights(r.Context(), w, r.URL.Query().Get("port"))
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { n.events(r.Context(), w, r) })
	mux.HandleFunc("GET /v1/keys", func(w http.ResponseWriter, r *http.Request) {
		s, err := n.keys(r.Context())
		answer(w, s, err)
	})
	mux.HandleFunc("POST /v1/keys/{verb}", func(w http.ResponseWriter, r *http.Request) {
		var req KeyRequest
		if !decode(w, r, &req) {
			return
		}
		s, err := n.changeKey(r.Context(), r.PathValue("verb"), req)
		answer(w, s, err)
	})
	return mux
}

// decode reads a JSON body strictly; it answers the request itself if it cannot.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		answer(w, nil, fmt.Errorf("%w: %v", ErrBadRequest, err))
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		v = Error{Message: err.Error()}
		code := http.StatusInternalServerError
		switch {
		case errors.Is(err, ErrBadRequest), errors.Is(err, gossip.ErrKeySize):
			code = http.StatusBadRequest
		case errors.Is(err, ErrConflict), errors.Is(err, gossip.ErrNoKeys), errors.Is(err, gossip.ErrUnknownKey),
			errors.Is(err, gossip.ErrPrimaryKey), errors.Is(err, gossip.ErrNodeDown), errors.Is(err, gossip.ErrRotating):
			code = http.StatusConflict
		}
		w.WriteHeader(code)
	}
	_ = json.NewEncoder(w).Encode(v) // the client hung up
}
