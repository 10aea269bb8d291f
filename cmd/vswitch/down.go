package main

import (
	"github.com/spf13/cobra"
)

func newDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the cluster down, and leave nothing behind",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := open(c)
			if err != nil {
				return err
			}
			return client.Down(c.Context())
		},
	}
}
