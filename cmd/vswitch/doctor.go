package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"vswitch/vswitch/lab"
)

func newDoctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine can do, and how to mend the rest",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			failed := 0
			for _, check := range lab.Doctor() {
				mark := "ok  "
				if !check.OK {
					mark, failed = "FAIL", failed+1
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %-24s %s\n", mark, check.Name, check.Detail)
				if !check.OK && check.Fix != "" {
					fmt.Fprintf(c.OutOrStdout(), "      %-24s fix: %s\n", "", check.Fix)
				}
			}
			if failed > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
}
