package main

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"
)

// event is what became of a row.
type event struct {
	what string // "ADDED", "MODIFIED" or "DELETED"
	row  row
}

// changes compares rows with those that were seen before. The rows that are gone
// come last, by key.
func changes(before, now []row) (events []event) {
	gone := map[string]row{}
	for _, r := range before {
		gone[r.key] = r
	}
	for _, r := range now {
		old, known := gone[r.key]
		delete(gone, r.key)
		if !known {
			events = append(events, event{"ADDED", r})
		} else if !reflect.DeepEqual(old.state, r.state) {
			events = append(events, event{"MODIFIED", r})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		events = append(events, event{"DELETED", gone[key]})
	}
	return events
}

// follow prints rows, and then what becomes of them, until ctx ends.
func (g *getOptions) follow(ctx context.Context, rows []row) error {
	show := g.watcher()
	var before []row
	for {
		if err := show(changes(before, rows)); err != nil {
			return err
		}
		before = rows
		err := g.wait(ctx)
		var lists []listing
		if err == nil {
			lists, err = g.list(ctx)
		}
		if ctx.Err() != nil {
			return nil // Ctrl-C is how watching ends
		}
		if err != nil {
			return err
		}
		rows = lists[0].rows
	}
}

// wait returns when there may be news.
func (g *getOptions) wait(ctx context.Context) error {
	switch {
	case g.kinds[0].objects != nil:
		_, err := g.client.Watch(ctx, g.revision)
		return err
	case g.kinds[0].events != nil:
		_, err := g.client.WatchEvents(ctx, g.revision)
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return ctx.Err()
}
