package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/lab"
)

// getKind is something that get shows: objects of the cluster, or a table that
// each node has for itself.
type getKind struct {
	names      string // of the kind, the first one as help lists it
	namespaced bool
	header     []string
	wide       int   // columns from here on are for -o wide; 0: there are none
	onlyWide   []int // columns before that are for -o wide, too

	// One of the three is set.
	objects func(*lab.State, []lab.Node) []row
	table   func(ctx context.Context, a *agent.Client, node string) ([]row, error)
	events  func([]*cluster.Event) []row
	// named: the rows of table have names.
	named bool
	// policies: the rows of objects are policies, and manifests will do.
	policies bool
}

// row is one object, or one entry of a node's table.
type row struct {
	key   string // tells it from the others of its kind
	meta  *cluster.Meta
	node  string   // where it is
	pods  []string // NAMESPACE/NAME of those it is about; of tables only
	cells []string
	value any // what JSON and YAML show
	// state is what makes the row another one when it differs: all but what
	// time alone changes.
	state any
}

var getKinds = []getKind{
	{names: "nodes node no", header: nodeHeader, wide: 6, objects: nodeRows},
	{names: "pods pod po", namespaced: true, header: podHeader, wide: 8, objects: podRows},
	{names: "deployments deployment deploy deployments.apps", namespaced: true, header: deploymentHeader, objects: deploymentRows},
	{names: "services service svc", namespaced: true, header: serviceHeader, wide: 7, objects: serviceRows},
	{names: "endpoints ep", namespaced: true, header: endpointsHeader, wide: 4, objects: endpointsRows},
	{names: "endpointslices endpointslice endpointslices.discovery.k8s.io", namespaced: true, header: sliceHeader, objects: sliceRows},
	{names: "policies policy", namespaced: true, header: policyHeader, wide: 7, objects: policyRows, policies: true},
	{names: "networkpolicies networkpolicy netpol networkpolicies.networking.k8s.io", namespaced: true, header: netpolHeader, wide: 6, objects: netpolRows, policies: true},
	{names: "clusternetworkpolicies clusternetworkpolicy cnp clusternetworkpolicies.policy.networking.k8s.io", header: cnpHeader, wide: 7, objects: cnpRows, policies: true},
	{names: "namespaces namespace ns", header: namespaceHeader, objects: namespaceRows},
	{names: "events event ev", namespaced: true, header: eventsHeader, wide: 8, onlyWide: []int{5, 6}, events: eventRows},
	{names: "routes route", header: routeHeader, wide: 6, table: routeRows},
	{names: "neighbors neighbor neigh", header: neighborHeader, wide: 5, table: neighborRows},
	{names: "flows flow", header: flowHeader, wide: 10, table: flowRows},
}

// daemonKinds are what a node that belongs to no cluster of this machine knows.
var daemonKinds = []getKind{
	{names: "nodes node no", header: knownNodeHeader, wide: 5, table: knownNodeRows, named: true},
	{names: "pods pod po", namespaced: true, header: knownPodHeader, wide: 5, table: knownPodRows, named: true},
	{names: "routes route", header: routeHeader, wide: 6, table: routeRows},
	{names: "neighbors neighbor neigh", header: neighborHeader, wide: 5, table: neighborRows},
	{names: "flows flow", header: flowHeader, wide: 10, table: flowRows},
}

// name returns the kind as help and messages call it.
func (k *getKind) name() string { return strings.Fields(k.names)[0] }

// resource is what stands before names where there are several kinds, such as
// deployment.apps.
func (k *getKind) resource() string {
	names := strings.Fields(k.names)
	one := names[min(1, len(names)-1)]
	if k.name() == "endpoints" {
		one = k.name() // has no singular
	}
	for _, n := range names {
		if _, group, ok := strings.Cut(n, "."); ok {
			return one + "." + group
		}
	}
	return one
}

func kindNames(kinds []getKind) (names []string) {
	for i := range kinds {
		names = append(names, kinds[i].name())
	}
	return names
}

func findKind(kinds []getKind, name string) (*getKind, error) {
	word := strings.ToLower(name)
	for i := range kinds {
		if slices.Contains(strings.Fields(kinds[i].names), word) || kinds[i].resource() == word {
			return &kinds[i], nil
		}
	}
	return nil, bad(fmt.Errorf("there is no %q to get; try %s", name, strings.Join(kindNames(kinds), ", ")))
}

// findKinds reads a list of kinds, separated by commas.
func findKinds(kinds []getKind, names string) (found []*getKind, err error) {
	for _, name := range strings.Split(names, ",") {
		k, err := findKind(kinds, name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(found, k) {
			found = append(found, k)
		}
	}
	return found, nil
}

// findNamed reads what get is asked for: kinds and then names, or KIND/NAME, as
// -o name prints them, of one kind.
func findNamed(kinds []getKind, args []string) (found []*getKind, names []string, err error) {
	if !strings.Contains(args[0], "/") {
		found, err = findKinds(kinds, args[0])
		return found, args[1:], err
	}
	for _, arg := range args {
		kind, name, err := kindAndName(arg)
		if err != nil {
			return nil, nil, err
		}
		k, err := findKind(kinds, kind)
		if err != nil {
			return nil, nil, err
		}
		if found == nil {
			found = []*getKind{k}
		}
		if k != found[0] {
			return nil, nil, bad(fmt.Errorf("%s and %s are of two kinds; get them one after the other", args[0], arg))
		}
		names = append(names, name)
	}
	return found, names, nil
}

// kindAndName reads KIND/NAME.
func kindAndName(arg string) (kind, name string, err error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return "", "", bad(fmt.Errorf("%q is not KIND/NAME", arg))
	}
	return kind, name, nil
}
