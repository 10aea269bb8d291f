// Command vswitch is a virtual switch for pods, in userspace: a cluster's
// network on one machine without root, a node of a larger one, and the tools
// to look into both.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set when the program is built.
var version = "devel"

// Exit codes, documented in the help of the commands that use them.
const (
	exitFailed = 1 // the command ran, and the answer is no
	exitBad    = 2 // the input is at fault; nothing was done
)

// exitError carries an exit code to main. An empty message was printed already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// bad marks an error as the input's fault.
func bad(err error) error { return &exitError{exitBad, err} }

func main() {
	if code, done := hidden(os.Args); done {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C does not wait for what the first began
	err := execute(ctx, newRoot())
	stop()
	os.Exit(report(err))
}

// execute runs the command line. What is found wrong with it before its command
// begins is bad input.
func execute(ctx context.Context, root *cobra.Command) error {
	began := false
	var watch func(c *cobra.Command)
	watch = func(c *cobra.Command) {
		if run := c.RunE; run != nil { // a Run does not fail
			c.RunE = func(c *cobra.Command, args []string) error {
				began = true
				return run(c, args)
			}
		}
		for _, sub := range c.Commands() {
			watch(sub)
		}
	}
	watch(root)
	c, err := root.ExecuteContextC(ctx)
	if err == nil || began {
		return err
	}
	// Suggestions are on lines of their own.
	message := strings.Replace(strings.Join(strings.Fields(err.Error()), " "), " Did you mean this?", "; did you mean", 1)
	if c != root {
		message = strings.TrimPrefix(c.CommandPath(), root.Name()+" ") + ": " + message
	}
	return bad(fmt.Errorf("%s; see '%s --help'", message, c.CommandPath()))
}

// report prints an error, a line for each thing that is wrong, and returns the
// exit code.
func report(err error) int {
	if err == nil {
		return 0
	}
	code := exitFailed
	if e := (*exitError)(nil); errors.As(err, &e) {
		code = e.code
		if e.err == nil {
			return code
		}
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "vswitch:", strings.TrimSuffix(line, "\n"))
	}
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "vswitch",
		Short: "A virtual switch for pods, in userspace",
		Long: `vswitch is the whole network of pods in one userspace process per node: bridge,
router, VXLAN overlay, services, network policy and DNS. It needs no root, no kernel module and
no sidecar.

  vswitch demo                       the life of a packet, shown with real pods
  vswitch up --nodes 3 -f ./k8s      a cluster on this machine from Kubernetes YAML
  vswitch exec shop/web-1 -- ping 10.244.2.2
  vswitch trace shop/web-1 shop/db-0:5432
  vswitch verify -f ./k8s expectations.yaml   who reaches whom, tested in CI
  vswitch observe --verdict dropped
  vswitch doctor                     what this machine can do, and how to mend the rest`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetVersionTemplate("vswitch {{.Version}}\n")
	root.PersistentFlags().String("name", "default", "name of the cluster on this machine")
	completeFlag(root, "name", completeClusters)
	root.AddGroup(
		&cobra.Group{ID: "cluster", Title: "Run a cluster:"},
		&cobra.Group{ID: "look", Title: "Look into it:"},
		&cobra.Group{ID: "other", Title: "Other:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("cluster", newDemo(), newUp(), newDown(), newApply(), newDelete(), newExec(), newLogs(), newNode(), newKeys())
	add("look", newGet(), newStatus(), newTrace(), newVerify(), newObserve(), newCapture(), newDNS())
	add("other", newDoctor(), newVersion())
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	return root
}
