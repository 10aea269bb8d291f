package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"vswitch/vswitch/lab"
)

// summary is how each node, pod and service is, in words: "node node1", "is Ready".
type summary map[string]string

func summarize(s *lab.State) summary {
	sum := summary{}
	for _, n := range s.Nodes {
		if n.Ready {
			sum["node "+n.Name] = "is Ready"
		} else {
			sum["node "+n.Name] = words("is NotReady", n.Reason)
		}
	}
	for _, p := range s.Pods {
		// When it is tried again is no news.
		reason, _, _ := strings.Cut(p.Reason, "; next try at ")
		sum["pod "+p.Key().String()] = words(fmt.Sprintf("is %s, %s ready", podStatus(p), podReady(p)), reason)
	}
	for _, v := range s.Services {
		sum["service "+v.Key().String()] = words("is "+serviceAt(v), strings.Join(v.Lacks(), "; "))
	}
	return sum
}

func words(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// changed returns a line for each thing that is not as it was before.
func (now summary) changed(before summary) (lines []string) {
	for _, thing := range slices.Sorted(maps.Keys(now)) {
		if now[thing] != before[thing] {
			lines = append(lines, thing+" "+now[thing])
		}
	}
	for _, thing := range slices.Sorted(maps.Keys(before)) {
		if now[thing] == "" {
			lines = append(lines, thing+" is gone")
		}
	}
	return lines
}

// live prints what changes in a cluster, with the time, until ctx or the cluster
// ends.
func live(ctx context.Context, out io.Writer, client *lab.Client) {
	state, err := client.State(ctx)
	for before := summarize(&state); err == nil; {
		if state, err = client.Watch(ctx, state.Revision); err != nil {
			return // whoever waits for the cluster says why
		}
		now := summarize(&state)
		for _, line := range now.changed(before) {
			fmt.Fprintln(out, time.Now().Format(time.TimeOnly), line)
		}
		before = now
	}
}
