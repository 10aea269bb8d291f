package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
)

// lookup resolves a name and returns what there is, sorted: addresses for A and
// AAAA, TARGET:PORT for SRV. Of a name that does not exist there is nothing.
func lookup(ctx context.Context, r *net.Resolver, kind, name string) (found []string, err error) {
	switch kind {
	case "A", "AAAA":
		network := map[string]string{"A": "ip4", "AAAA": "ip6"}[kind]
		ips, lerr := r.LookupNetIP(ctx, network, name)
		for _, ip := range ips {
			found = append(found, ip.Unmap().String())
		}
		err = lerr
	case "SRV":
		_, records, lerr := r.LookupSRV(ctx, "", "", name)
		for _, v := range records {
			found = append(found, fmt.Sprintf("%s:%d", v.Target, v.Port))
		}
		err = lerr
	default:
		return nil, fmt.Errorf("record type %q: use A, AAAA or SRV", kind)
	}
	if e := (*net.DNSError)(nil); errors.As(err, &e) && e.IsNotFound {
		return nil, nil
	}
	slices.Sort(found)
	return found, err
}
