package policy

import "vswitch/vswitch/cluster"

// Compiler follows a cluster and keeps the Set of one node. What a change costs
// follows the change. It is not safe for concurrent use; its Sets are.
type Compiler struct{ node string }

// NewCompiler returns a Compiler for the pods of a node, which knows nobody
// yet. With an empty name it compiles the policies of all pods of the cluster.
func NewCompiler(node string) *Compiler { return &Compiler{node: node} }

// Apply takes in what changed: namespaces, nodes, pods and policies. It reports
// whether that makes a difference to Set.
func (c *Compiler) Apply(ch *cluster.Changes) bool { return false }

// Set returns the present Set.
func (c *Compiler) Set() *Set { return &Set{} }
