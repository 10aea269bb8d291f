package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/overlay/gossip"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/control"
)

// shutdownGrace bounds how long pods have to end when the cluster goes down:
// whoever takes it down waits for it.
const shutdownGrace = 3 * time.Second

// supervisor is the parent of all nodes and pods of a cluster.
type supervisor struct {
	id      string // the name by which nodes know their cluster
	dir     string
	options Options
	log     *slog.Logger
	started time.Time
	random  *mathrand.Rand
	store   *cluster.Store
	control *control.Controller
	outside *outside
	lock    *os.File // of the state directory; nil without one

	ctx  context.Context // ends when the cluster goes down
	down context.CancelFunc
	gone chan struct{} // closed when all pods and nodes have ended
	kick chan struct{} // asks for a reconcile

	mu    sync.Mutex // guards what follows
	nodes []*node    // by age
	pods  map[cluster.Key]*pod
}

// supervise is the supervisor's process.
func supervise(dir string) int {
	unix.CloseOnExec(fdConn)
	unix.CloseOnExec(fdLock)
	file := os.NewFile(fdConn, "conn")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return 1
	}
	var m message
	if err := readMessage(conn, &m); err != nil || m.Options == nil {
		return 0 // the command is gone already
	}
	s, err := newSupervisor(dir, *m.Options)
	if err == nil {
		err = s.run(conn)
	}
	if err != nil {
		writeMessage(conn, message{Error: err.Error(), Input: errors.Is(err, ErrInput)})
	}
	return 0
}

func newSupervisor(dir string, o Options) (*supervisor, error) {
	s := &supervisor{dir: dir, options: o, started: time.Now(), store: cluster.NewStore(), pods: map[cluster.Key]*pod{},
		gone: make(chan struct{}), kick: make(chan struct{}, 1), log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		random: mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64()))}
	// Two clusters of one name on one network must not become one.
	var tag [4]byte
	rand.Read(tag[:])
	s.id = o.Name + "-" + hex.EncodeToString(tag[:])
	s.ctx, s.down = context.WithCancel(context.Background())
	for _, sub := range []string{netnsDir, podsDir, nodesDir} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if _, err := gossip.CreateKeyFile(s.keyFile()); err != nil {
		return nil, err
	}
	s.outside = newOutside(s)
	var err error
	if o.StateDir != "" {
		if s.lock, err = lockState(o.StateDir); err != nil {
			return nil, err
		}
	}
	s.control, err = newController(s.store, &s.options, s.log)
	return s, err
}

// keyFile returns the file of the gossip keyring. It is one for all nodes: one
// that is added, or was down while keys were rotated, finds the new key in it.
func (s *supervisor) keyFile() string { return filepath.Join(s.dir, "gossip.key") }

// run brings the cluster up and returns when it is down. An error says that it
// did not come up.
func (s *supervisor) run(conn net.Conn) error {
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	defer listeners.close()
	defer s.shutdown()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	go func() {
		<-signals
		s.down()
	}()
	go s.control.Run(s.ctx)
	detached := make(chan struct{})
	go s.attend(conn, detached)
	w := s.store.Watch()
	defer w.Close()
	if err := s.bringUp(conn, w); err != nil {
		return err
	}
	for {
		select {
		case <-s.ctx.Done():
			return nil
		case <-w.C():
			w.Next()
		case <-s.kick:
		}
		s.reconcile()
	}
}

// attend reads what the command says; if it goes without having detached, the
// cluster goes, too.
func (s *supervisor) attend(conn net.Conn, detached chan struct{}) {
	for {
		var m message
		if err := readMessage(conn, &m); err != nil {
			select {
			case <-detached:
			default:
				s.log.Info("the command that started the cluster is gone; going down")
				s.down()
			}
			return
		}
		if m.Detach {
			close(detached)
			s.log.Info("detached")
			return
		}
	}
}

// bringUp starts everything, tells the command how it goes, and returns when
// all nodes are ready, know each other and the services, and each pod has started
// or cannot.
func (s *supervisor) bringUp(conn net.Conn, w *cluster.Watcher) error {
	wait := s.options.Wait
	if wait == 0 {
		wait = 30 * time.Second
	}
	timeout := time.After(wait)
	said := progress{}
	for {
		state := s.store.State()
		w.Next()
		s.reconcile()
		for _, line := range said.lines(state) {
			if writeMessage(conn, message{Line: line}) != nil {
				return nil // attend decides
			}
		}
		if s.nodeProblem() == nil && s.meetProblem() == nil && settled(state) {
			if err := s.inForce(s.ctx, state.Revision); err != nil {
				writeMessage(conn, message{Line: err.Error()})
			}
			writeMessage(conn, message{Ready: true})
			return nil
		}
		select {
		case <-s.ctx.Done():
			return nil
		case <-w.C():
		case <-s.kick:
		case <-timeout:
			if err := s.nodeProblem(); err != nil {
				return fmt.Errorf("%w after %s", err, wait)
			}
			why := "not all pods are ready"
			if err := s.meetProblem(); err != nil {
				why = err.Error()
			}
			writeMessage(conn, message{Line: fmt.Sprintf("%s after %s; vswitch status says why", why, wait)})
			writeMessage(conn, message{Ready: true})
			return nil
		}
	}
}

// nodeProblem says what the first node that is not ready lacks.
func (s *supervisor) nodeProblem() error {
	for n := range s.store.State().Nodes.All() {
		own := s.node(n.Name)
		if own == nil {
			return fmt.Errorf("node %s is not started", n.Name)
		}
		if err := own.notReady(); err != nil {
			return err
		}
	}
	return nil
}

// shutdown ends all pods, then all nodes, so that pods can say goodbye.
func (s *supervisor) shutdown() {
	s.down()
	s.mu.Lock()
	pods, nodes := slices.Collect(maps.Values(s.pods)), slices.Clone(s.nodes)
	s.mu.Unlock()
	for _, p := range pods {
		<-p.done
	}
	for _, n := range nodes {
		n.stop()
	}
	for _, n := range nodes {
		<-n.done
	}
	s.outside.close()
	close(s.gone)
}
