package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
	"vswitch/vswitch/lab"
)

// open returns a client of the cluster that --name says.
func open(c *cobra.Command) (*lab.Client, error) {
	name, err := c.Flags().GetString("name")
	if err != nil {
		return nil, err
	}
	client, err := lab.Open(name)
	if errors.Is(err, lab.ErrNotRunning) {
		err = fmt.Errorf("%w%s", err, notRunning(c, name))
	}
	return client, input(err)
}

// notRunning says what to do about a cluster that does not run.
func notRunning(c *cobra.Command, name string) (hint string) {
	if c.Name() != "down" {
		hint = "; start it with " + command(name, "up")
	}
	if others, _ := lab.List(); len(others) > 0 { // if they cannot be listed, none is named
		hint += "; running with another --name: " + strings.Join(others, ", ")
	}
	return hint
}

// load reads manifests and prints warnings; what is wrong with them is bad input.
func load(c *cobra.Command, files []string) (*cluster.Objects, error) {
	objects, warnings, err := kube.Load(files, c.InOrStdin())
	for _, w := range warnings {
		fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
	}
	if err != nil {
		return nil, bad(err)
	}
	if len(files) > 0 && objects.Len() == 0 {
		warnEmpty(c, files)
	}
	return objects, nil
}

// warnEmpty says that there is nothing in the files that were named.
func warnEmpty(c *cobra.Command, files []string) {
	var names []string
	for _, name := range files {
		if name == "-" {
			name = "standard input"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	fmt.Fprintf(c.ErrOrStderr(), "warning: no objects in %s\n", strings.Join(names, ", "))
}

// input marks an error that is the input's fault.
func input(err error) error {
	if errors.Is(err, lab.ErrInput) || errors.Is(err, lab.ErrNotFound) {
		return bad(err)
	}
	return err
}

// command writes a command line of this program for a cluster.
func command(name, rest string) string {
	if name == "default" {
		return "vswitch " + rest
	}
	return "vswitch --name " + name + " " + rest
}

func parsePrefixes(flag string, in []string, out *[]netip.Prefix) error {
	if len(in) > 0 {
		*out = nil
	}
	for _, s := range in {
		for _, one := range strings.Split(s, ",") {
			p, err := netip.ParsePrefix(one)
			if err != nil {
				return fmt.Errorf("--%s %q is not a range such as 10.244.0.0/16", flag, one)
			}
			*out = append(*out, p)
		}
	}
	return nil
}

// podName reads NAMESPACE/POD; without a namespace it is the default one.
func podName(s string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = "default", s
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", bad(fmt.Errorf("%q is not NAMESPACE/POD", s))
	}
	return namespace, name, nil
}
