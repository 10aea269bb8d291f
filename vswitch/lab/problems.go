package lab

import (
	"fmt"
	"strings"

	"vswitch/vswitch/cluster"
)

// maxServiceProblems is how many services are named in a cluster's problems:
// what many of them lack is usually the same.
const maxServiceProblems = 8

// nodeProblems are the problems of nodes, those that several have once.
func nodeProblems(nodes []Node) (list []string) {
	who := map[string][]string{}
	var order []string
	for _, n := range nodes {
		for _, p := range n.Problems {
			if who[p] == nil {
				order = append(order, p)
			}
			who[p] = append(who[p], n.Name)
		}
	}
	for _, p := range order {
		subject := "node "
		if len(who[p]) > 1 {
			subject = "nodes "
		}
		list = append(list, subject+strings.Join(who[p], ", ")+": "+p)
	}
	return list
}

// serviceProblems are the conditions of services that are not as they should be.
func serviceProblems(s *cluster.State) (list []string) {
	services, named := 0, 0
	for svc := range s.Services.All() {
		lacks := svc.Lacks()
		if len(lacks) == 0 {
			continue
		}
		if services++; services <= maxServiceProblems {
			named++
			list = append(list, sourced(svc.Source, fmt.Sprintf("Service %s: %s", svc.Key(), strings.Join(lacks, "; "))))
		}
	}
	if more := services - named; more > 0 {
		list = append(list, fmt.Sprintf("%d more Services lack something; vswitch get services -A -o wide says what", more))
	}
	return list
}

// podProblem is a pod's Reason in the form of an error in its manifest.
func podProblem(p *cluster.Pod) string {
	return sourced(p.Source, fmt.Sprintf("Pod %s: %s", p.Key(), p.Reason))
}

// sourced puts the place of an object in its manifest before what is said of it.
func sourced(source, text string) string {
	if source == "" {
		return text
	}
	return source + ": " + text
}
