package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"time"

	"vswitch/vswitch/cluster"
)

// FeedPath is where Feed is served.
const FeedPath = "/v1/feed"

// feedChunk is how many objects a line of the feed has at most.
const feedChunk = 256

// update is a line of the feed: objects that are new or changed, and those that
// are gone. All lines up to one with Done belong together.
type update struct {
	// Reset: what follows is all that there is. It begins every feed.
	Reset   bool             `json:"reset,omitempty"`
	Objects *cluster.Objects `json:"objects,omitempty"`
	Deleted []cluster.Ref    `json:"deleted,omitempty"`
	Done    bool             `json:"done,omitempty"`
	// Revision, with Done, is that of the State that the follower then knows.
	Revision uint64 `json:"revision,omitempty"`
}

// Feed tells nodes what their data planes must know of the cluster: services and
// their endpoints, policies, and whom those select, as JSON lines, for as long as
// they listen. A node that comes back gets the whole first. A State that is new in
// other things only, such as the status of pods, is told by its revision, so that
// a node can say what of the cluster it goes by.
func Feed(store *cluster.Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/jsonl")
		flush := http.NewResponseController(w)
		out := json.NewEncoder(w)
		watch := store.Watch()
		defer watch.Close()
		for first := true; ; first = false {
			c := watch.Next()
			if writeChanges(out, &c, first) != nil || flush.Flush() != nil {
				return // the node hung up
			}
			select {
			case <-r.Context().Done():
				return
			case <-watch.C():
			}
		}
	})
}

// lines writes updates, in lines of bounded size.
type lines struct {
	out  *json.Encoder
	next update
}

func (l *lines) write() error {
	err := l.out.Encode(&l.next)
	l.next = update{Objects: &cluster.Objects{}}
	return err
}

// full writes a line if it has as much as a line may have.
func (l *lines) full() error {
	if l.next.Objects.Len()+len(l.next.Deleted) < feedChunk {
		return nil
	}
	return l.write()
}

// writeChanges writes what of the changes nodes must know.
func writeChanges(out *json.Encoder, c *cluster.Changes, reset bool) error {
	l := lines{out, update{Reset: reset, Objects: &cluster.Objects{}}}
	for old, now := range c.All() {
		old, now = forNodes(old), forNodes(now)
		switch {
		case old == nil && now == nil:
			continue
		case now == nil:
			l.next.Deleted = append(l.next.Deleted, cluster.RefOf(old))
		case old != nil && reflect.DeepEqual(old, now):
			continue // what changed is nothing that nodes go by
		default:
			l.next.Objects.Add(now)
		}
		if err := l.full(); err != nil {
			return err
		}
	}
	l.next.Done, l.next.Revision = true, c.To.Revision
	return l.write()
}

// Follow keeps store's desired objects those of the feed at a unix socket, until
// ctx ends. heard is told the feed's revision when store has it. When the feed is
// lost, what it told last stays, and Follow asks again; lost is told why, once
// for each loss, and nil when it is there, the first time too, and store has the
// whole.
func Follow(ctx context.Context, socket string, store *cluster.Store, heard func(revision uint64), lost func(error)) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	wait, down, up := retryFirst, false, false
	for ctx.Err() == nil {
		err := followOnce(ctx, &client, store, func(revision uint64) {
			heard(revision)
			wait = retryFirst
			if down || !up {
				down, up = false, true
				lost(nil)
			}
		})
		if ctx.Err() != nil {
			return
		}
		if !down {
			down = true
			lost(fmt.Errorf("the feed at %s is lost: %w", socket, err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

// Follow asks again after these times, the first one at first.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// followOnce reads one feed to its end. up is called with the revision whenever
// store has all that the feed told.
func followOnce(ctx context.Context, client *http.Client, store *cluster.Store, up func(revision uint64)) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://cluster"+FeedPath, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", res.Status)
	}
	in := json.NewDecoder(bufio.NewReaderSize(res.Body, 1<<16))
	for {
		batch, err := readBatch(in)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it ended")
			}
			return err
		}
		if err := store.Update(cluster.Desired, func(tx *cluster.Txn) error { accept(tx, batch); return nil }); err != nil {
			return err
		}
		up(batch[len(batch)-1].Revision)
	}
}

// readBatch reads lines up to one that is Done.
func readBatch(in *json.Decoder) (batch []update, err error) {
	for {
		var u update
		if err := in.Decode(&u); err != nil {
			return nil, err
		}
		batch = append(batch, u)
		if u.Done {
			return batch, nil
		}
	}
}

// accept makes a batch part of what is desired.
func accept(tx *cluster.Txn, batch []update) {
	for _, u := range batch {
		if u.Reset {
			tx.Clear()
		}
		for _, r := range u.Deleted {
			tx.Delete(r)
		}
		if u.Objects != nil {
			for o := range u.Objects.All() {
				tx.Put(o)
			}
		}
	}
}
