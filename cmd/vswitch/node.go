package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"vswitch/vswitch/agent"
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
	if err := yaml.UnmarshalStrict(data, &cfg); err != nil {
		return cfg, fmt.Errorf("%s: %w", file, err)
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("%s: %w", file, err)
	}
	return cfg, nil
}
