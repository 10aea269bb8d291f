package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vswitch/overlay/gossip"
	"vswitch/vswitch/agent"
)

// keyOptions say which node is told, and how what it says is printed.
type keyOptions struct {
	node, socket, output string
}

func newKeys() *cobra.Command {
	var o keyOptions
	c := &cobra.Command{
		Use:   "keys",
		Short: "Show and change the keys that encrypt gossip between nodes",
		Long: `Nodes encrypt what they tell each other with the first key of their ring, and
decrypt with any. All commands but generate go to one node, which has all live
nodes do the same; it is a node of the cluster on this machine (--name), or any
node whose API is at --socket.

Keys are read from files or standard input, and printed as fingerprints only.

  vswitch keys list
  vswitch keys rotate                        a new key everywhere, and no other
  vswitch keys generate gossip.key           for the nodes of a new cluster
  vswitch keys install --file gossip.key     a rotation by hand: install,
  vswitch keys use 5d1fa1edd8e5bb9c          then use,
  vswitch keys remove 0bf2a8a35b1a1ed6       then remove the old one

Exit codes: 0 all live nodes did it, 1 some did not, 2 the input is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f := c.PersistentFlags()
	f.StringVar(&o.node, "node", "", "ask this node of the cluster (default the first that is ready)")
	f.StringVar(&o.socket, "socket", "", "ask the node whose API socket this is: node.sock in its runtimeDir")
	f.StringVarP(&o.output, "output", "o", "table", "output format: table, json or yaml")
	c.AddCommand(newKeysList(&o), newKeysRotate(&o), newKeysGenerate(), newKeysInstall(&o),
		newKeysNamed(&o, "use", "Have all nodes encrypt with an installed key"),
		newKeysNamed(&o, "remove", "Take a key that does not encrypt off all nodes"))
	return c
}

func newKeysList(o *keyOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys of all live nodes by fingerprint",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			keys, err := o.run(c, (*agent.Client).Keys)
			if err != nil {
				return err
			}
			return keyProblem(keys)
		},
	}
}

func newKeysRotate(o *keyOptions) *cobra.Command {
	var file string
	var force bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace all keys of all nodes by a new one",
		Long: `Installs a key on all nodes, has them encrypt with it, and removes the others: each
step once all nodes have done the last one. If it stops, all nodes still
understand each other; mend what it names and rotate again.

A node that is down would miss it and be refused when it comes back. Therefore
nothing is done while one is, unless --force is given; such a node then needs
the key file of another one before it starts.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := agent.KeyRequest{Force: force}
			if file != "" {
				var err error
				if r.Key, err = readKey(c, file); err != nil {
					return bad(err)
				}
			}
			return o.change(c, "rotate", r)
		},
	}
	c.Flags().StringVar(&file, "file", "", "use the key in this file, - for standard input (default a new one)")
	c.Flags().BoolVar(&force, "force", false, "go on though nodes are down")
	return c
}

func newKeysGenerate() *cobra.Command {
	return &cobra.Command{
		Use:   "generate FILE",
		Short: "Write a new key to a new file",
		Long: `Draws a key and writes it to a file that only its owner can read. Give all nodes of
a cluster a copy and name it in their configuration (gossip.keyFile).`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := gossip.CreateKeyFile(args[0])
			if errors.Is(err, os.ErrExist) {
				return bad(fmt.Errorf("%s exists; the key in it may be the last copy, so it is not replaced", args[0]))
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s holds key %s\n", args[0], gossip.Fingerprint(key))
			return err
		},
	}
}

func newKeysInstall(o *keyOptions) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "install [--file FILE]",
		Aliases: []string{"add"},
		Short:   "Add a key to all nodes, to decrypt with",
		Long: `Adds a key to all nodes: they decrypt with it from then on. The key is the first one
of FILE or of standard input: base64 of 16, 24 or 32 bytes.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return bad(errors.New("a key on the command line is seen by everybody on this machine; use --file FILE or standard input"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			key, err := readKey(c, file)
			if err != nil {
				return bad(err)
			}
			return o.change(c, "install", agent.KeyRequest{Key: key})
		},
	}
	c.Flags().StringVar(&file, "file", "-", "file that holds the key, - for standard input")
	return c
}

var fingerprintForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

// newKeysNamed returns a command about the key of a fingerprint.
func newKeysNamed(o *keyOptions, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " FINGERPRINT",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !fingerprintForm.MatchString(args[0]) {
				return bad(errors.New("that is no fingerprint; 'vswitch keys list' shows them: 16 hexadecimal digits")) // it may be a key
			}
			return o.change(c, verb, agent.KeyRequest{Fingerprint: args[0]})
		},
	}
}

// readKey returns the first key of a file or of standard input.
func readKey(c *cobra.Command, file string) ([]byte, error) {
	in, what := c.InOrStdin(), "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, what = f, file
	} else if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return nil, errors.New("no key is given; use --file FILE, or pipe one in")
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<16))
	if err != nil {
		return nil, err
	}
	keys, err := gossip.ParseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return keys[0], nil
}

func (o *keyOptions) change(c *cobra.Command, verb string, r agent.KeyRequest) error {
	_, err := o.run(c, func(a *agent.Client, ctx context.Context) ([]agent.KeyStatus, error) {
		return a.ChangeKey(ctx, verb, r)
	})
	return err
}

// run has a node do something, prints the keys that all nodes have then, and
// returns them.
func (o *keyOptions) run(c *cobra.Command, do func(*agent.Client, context.Context) ([]agent.KeyStatus, error)) ([]agent.KeyStatus, error) {
	if !slices.Contains([]string{"table", "json", "yaml"}, o.output) {
		return nil, bad(fmt.Errorf("output %q: use table, json or yaml", o.output))
	}
	a, err := o.client(c)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	keys, err := do(a, c.Context())
	if err != nil {
		return nil, err
	}
	if o.output != "table" {
		return keys, printObject(c.OutOrStdout(), keys, o.output)
	}
	t := keyTable(keys)
	t.print(c.OutOrStdout())
	return keys, nil
}

// client returns a client of the node that is to be asked.
func (o *keyOptions) client(c *cobra.Command) (*agent.Client, error) {
	if o.socket != "" && o.node != "" {
		return nil, bad(errors.New("--node and --socket both name the node to ask; give one of them"))
	}
	if o.socket != "" {
		return agent.NewClient(o.socket), nil
	}
	client, err := open(c)
	if err != nil {
		return nil, err
	}
	a, err := client.Agent(c.Context(), o.node)
	return a, input(err)
}

func keyTable(keys []agent.KeyStatus) table {
	t := table{header: []string{"NODE", "ENCRYPTS-WITH", "DECRYPTS-ALSO", "PROBLEM"}}
	for _, k := range keys {
		var first, others string
		if len(k.Keys) > 0 {
			first, others = k.Keys[0], strings.Join(k.Keys[1:], ",")
		}
		t.add(k.Node, first, others, k.Error)
	}
	return t
}

// keyProblem says what keeps the nodes from being equal.
func keyProblem(keys []agent.KeyStatus) error {
	var silent []string
	rings := map[string]bool{}
	for _, k := range keys {
		if k.Error != "" || len(k.Keys) == 0 {
			silent = append(silent, fmt.Sprintf("node %s: %s", k.Node, cmp.Or(k.Error, "has no keys")))
			continue
		}
		slices.Sort(k.Keys[1:])
		rings[strings.Join(k.Keys, ",")] = true
	}
	switch {
	case len(silent) > 0:
		return errors.New(strings.Join(silent, "; "))
	case len(rings) > 1:
		return errors.New("the nodes do not have the same keys; 'vswitch keys rotate' mends that")
	}
	return nil
}
