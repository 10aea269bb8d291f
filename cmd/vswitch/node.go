package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/kube"
)

func newNode() *cobra.Command {
	var file string
	var check bool
	c := &cobra.Command{
		Use:   "node --config FILE",
		Short: "Run one node as a daemon of its own, for several machines",
		Long: `Runs one node: its switch, overlay, gossip and API. 'vswitch up' starts such nodes
by itself; start them by hand to join several machines.

The configuration is YAML; see docs/operate.md for all fields:

  name: node1
  runtimeDir: /run/user/1000/vswitch/node1
  stateDir: /home/me/.local/state/vswitch/node1
  addresses: [172.29.0.1]
  overlay: {listen: "192.0.2.1:8472"}
  gossip: {listen: "192.0.2.1:7946", join: ["192.0.2.2:7946"], keyFile: /home/me/gossip.key}

Exit codes: 0 it was stopped, 1 it failed, 2 the configuration is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := readConfig(file)
			if err != nil {
				return bad(err)
			}
			if check {
				fmt.Fprintf(c.OutOrStdout(), "%s is valid\n", file)
				return nil
			}
			agent.Version = version
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", cfg.Name)
			n, err := agent.Start(cfg, log)
			if err != nil {
				return err
			}
			return n.Run(c.Context())
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration file")
	c.Flags().BoolVar(&check, "check", false, "only check the configuration")
	_ = c.MarkFlagRequired("config") // the flag exists
	return c
}

// readConfig reads a node's configuration over the defaults, strictly.
func readConfig(file string) (agent.Config, error) {
	cfg := agent.Default()
	data, err := os.ReadFile(file)
	if err != nil {
		return cfg, err
	}
	place, err := kube.DecodeConfig(file, data, &cfg)
	if err != nil {
		return cfg, err
	}
	return cfg, placed(place, errors.Join(cfg.Validate(), cfg.CheckFiles()))
}

// placed puts before each error that begins with a field where that field is.
func placed(place func(field string) string, err error) error {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range list.Unwrap() {
			errs = append(errs, placed(place, e))
		}
		return errors.Join(errs...)
	}
	if err == nil {
		return nil
	}
	field, _, _ := strings.Cut(err.Error(), ": ")
	return fmt.Errorf("%s: %w", place(field), err)
}
