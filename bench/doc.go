// Package bench measures the switch: throughput, latency and packet rate of
// real traffic between network namespaces, with and without services, beside the kernel's own path (veth,
// bridge, VXLAN) and beside a bare TAP forwarder that does no work, in one run,
// interleaved, as medians and ratios. It needs no root and installs nothing:
//
//	go test -bench . ./bench
//
// Its tests only check that every topology carries traffic; they time nothing.
// Results that were worth keeping are in results/, with the machine they are from.
package bench
