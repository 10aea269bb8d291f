package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vswitch/vswitch/cluster"
	"vswitch/vswitch/kube"
)

func newDelete() *cobra.Command {
	var files []string
	var namespace string
	c := &cobra.Command{
		Use:   "delete (-f FILE|DIR... | KIND NAME... | KIND/NAME...)",
		Short: "Delete objects of the running cluster",
		Long: `Deletes what manifests call their objects by kind, namespace and name, or what is named.
Whatever else is wrong with a manifest does not matter. If some objects are not there, the
others are deleted, and each that was is a line of the output.

Exit codes: 0 all are deleted, 1 it failed, 2 some are not there, or the input is wrong.`,
		Example: `  vswitch delete -f pods.yaml
  vswitch delete pod web-1 -n shop
  vswitch delete service/web deployment/web -n shop`,
		ValidArgsFunction: completeDelete,
		RunE: func(c *cobra.Command, args []string) error {
			refs, err := refsOf(c, files, namespace, args)
			if err != nil {
				return err
			}
			client, err := open(c)
			if err != nil {
				return err
			}
			results, err := client.DeleteEach(c.Context(), refs)
			for _, r := range results {
				fmt.Fprintln(c.OutOrStdout(), r)
			}
			return input(err)
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "manifests: a file, a directory, or - for standard input; repeatable")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the objects")
	completeFlag(c, "namespace", completeNamespaces)
	return c
}

// refsOf returns what a delete command names.
func refsOf(c *cobra.Command, files []string, namespace string, args []string) (refs []cluster.Ref, err error) {
	switch {
	case len(files) > 0 && len(args) == 0:
		refs, err := kube.Names(files, c.InOrStdin())
		if err != nil {
			return nil, bad(err)
		}
		if len(refs) == 0 {
			warnEmpty(c, files)
		}
		return refs, nil
	case len(files) == 0 && len(args) > 0 && strings.Contains(args[0], "/"):
		for _, arg := range args {
			word, name, err := kindAndName(arg)
			if err != nil {
				return nil, err
			}
			kind, err := deletedKind(word)
			if err != nil {
				return nil, err
			}
			refs = append(refs, kind.Ref(cluster.Key{Namespace: namespace, Name: name}))
		}
		return refs, nil
	case len(files) == 0 && len(args) >= 2:
		kind, err := deletedKind(args[0])
		if err != nil {
			return nil, err
		}
		for _, name := range args[1:] {
			refs = append(refs, kind.Ref(cluster.Key{Namespace: namespace, Name: name}))
		}
		return refs, nil
	}
	return nil, bad(errors.New("name what to delete: -f FILE, a kind and names, or KIND/NAME"))
}

// deletedKind returns the kind that a command line calls word.
func deletedKind(word string) (cluster.Kind, error) {
	kind, ok := cluster.ParseKind(word)
	if !ok {
		kinds := deletable()
		last := len(kinds) - 1
		return "", bad(fmt.Errorf("%q is no kind of object; use %s or %s", word, strings.Join(kinds[:last], ", "), kinds[last]))
	}
	return kind, nil
}

// deletable are the kinds that people delete, as a command line names them.
func deletable() (names []string) {
	for _, k := range []cluster.Kind{cluster.KindPod, cluster.KindDeployment, cluster.KindService, cluster.KindEndpointSlice, cluster.KindEndpoints,
		cluster.KindNetworkPolicy, cluster.KindClusterNetworkPolicy, cluster.KindNode, cluster.KindNamespace} {
		names = append(names, strings.ToLower(string(k)))
	}
	return names
}
