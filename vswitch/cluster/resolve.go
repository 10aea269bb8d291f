package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Resolve returns the pod with its containers' variables and commands as they
// are when it starts: fields of the pod filled in and $(VAR) expanded as the
// kubelet does. It needs the pod's node and addresses; node may be nil.
//
// A reference sees the variables before it, $$(VAR) is a literal $(VAR), and a
// reference to an unknown variable stays as it is written.
func (p *Pod) Resolve(node *Node) *Pod {
	q := *p
	q.InitContainers = slices.Clone(p.InitContainers)
	q.Containers = slices.Clone(p.Containers)
	for _, list := range [][]Container{q.InitContainers, q.Containers} {
		for i := range list {
			p.resolveContainer(&list[i], node)
		}
	}
	return &q
}

func (p *Pod) resolveContainer(c *Container, node *Node) {
	vars := map[string]string{}
	var names []string
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		if path, ok := c.EnvFields[name]; ok && value == "" {
			value, _ = p.Field(path, node)
		} else {
			value = expand(value, vars)
		}
		if _, again := vars[name]; !again {
			names = append(names, name)
		}
		vars[name] = value
	}
	c.Env, c.EnvFields = nil, nil
	for _, name := range names {
		c.Env = append(c.Env, name+"="+vars[name])
	}
	command := make([]string, len(c.Command))
	for i, arg := range c.Command {
		command[i] = expand(arg, vars)
	}
	c.Command = command
}

// Field returns a field of the pod by the path that a manifest's fieldRef may
// give. ok is false for a path that there is not; a field without a value yet
// is the empty string.
func (p *Pod) Field(path string, node *Node) (value string, ok bool) {
	if name, sub, found := strings.Cut(path, "["); found {
		sub, closed := strings.CutSuffix(sub, "]")
		sub, quoted := strings.CutPrefix(sub, "'")
		sub, endquoted := strings.CutSuffix(sub, "'")
		if !closed || !quoted || !endquoted || sub == "" {
			return "", false
		}
		switch name {
		case "metadata.labels":
			return p.Labels[sub], true
		case "metadata.annotations":
			return p.Annotations[sub], true
		}
		return "", false
	}
	switch path {
	case "metadata.name":
		return p.Name, true
	case "metadata.namespace":
		return p.Namespace, true
	case "metadata.uid":
		return p.UID, true
	case "metadata.labels":
		return formatMap(p.Labels), true
	case "metadata.annotations":
		return formatMap(p.Annotations), true
	case "spec.nodeName":
		return p.Node, true
	case "spec.serviceAccountName":
		return "default", true
	case "status.podIP":
		return joinAddrs(p.IPs, 1), true
	case "status.podIPs":
		return joinAddrs(p.IPs, len(p.IPs)), true
	case "status.hostIP":
		return nodeAddrs(node, 1), true
	case "status.hostIPs":
		return nodeAddrs(node, 2), true
	}
	return "", false
}

func nodeAddrs(n *Node, count int) string {
	if n == nil {
		return ""
	}
	return joinAddrs(n.Addresses, count)
}

func joinAddrs[A fmt.Stringer](addrs []A, count int) string {
	var s []string
	for _, a := range addrs[:min(count, len(addrs))] {
		s = append(s, a.String())
	}
	return strings.Join(s, ",")
}

// formatMap writes labels as the downward API does, a line each, quoted.
func formatMap(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// expand replaces $(NAME) by vars, as k8s.io/kubernetes third_party/forked/
// golang/expansion documents it: $$ is a $, and what is not a reference, or
// refers to nothing, stays.
func expand(s string, vars map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			return b.String() + s
		}
		b.WriteString(s[:i])
		s = s[i:]
		switch s[1] {
		case '$':
			b.WriteByte('$')
			s = s[2:]
		case '(':
			end := strings.IndexByte(s, ')')
			if end < 0 { // no reference after all
				b.WriteString("$(")
				s = s[2:]
				continue
			}
			if v, ok := vars[s[2:end]]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[:end+1])
			}
			s = s[end+1:]
		default:
			b.WriteString(s[:2])
			s = s[2:]
		}
	}
}
