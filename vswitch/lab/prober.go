package lab

import (
	"cmp"
	"context"
	"sync"
	"time"

	"vswitch/vswitch/cluster"
)

// outcome is what a probe found.
type outcome uint8

const (
	// noAnswer: the probe itself could not be made, which says nothing of the
	// container and counts for nothing.
	noAnswer outcome = iota
	healthy
	sick
)

// finding is an outcome and why it is not healthy, or a warning if it is.
type finding struct {
	outcome
	why string
}

// prober asks one run of a container how it is, by the rules of the kubelet
// (pkg/kubelet/prober/worker.go). It knows time, but neither containers nor
// networks. Its functions may be called from several goroutines at a time.
type prober struct {
	startup, liveness, readiness *cluster.Probe
	// ask performs the handler of a probe. When its context ends, it returns,
	// and a finding is then sick for having taken too long.
	ask func(ctx context.Context, h *cluster.Handler) finding
	// started is called once the startup probe has succeeded.
	started func()
	// ready is called with each finding that the readiness probe settles on.
	ready func(ok bool, why string)
	// unhealthy is called when the startup or liveness probe has failed for good:
	// the container must end. That probe is not made again.
	unhealthy func(kind string, p *cluster.Probe, why string)
	// lost is called with what keeps a probe from being made.
	lost func(kind, why string)
	// failed is called with each finding of a probe that is not healthy, but not
	// before the container has had a period to come up: the kubelet makes its
	// first probe some time in it.
	failed func(kind string, f finding)
}

// run probes from now, when the container started, until alive ends with it.
// A container that is no longer wanted is not asked whether it should live, but
// still whether it is ready. run returns when nothing asks any more.
func (p *prober) run(alive, wanted context.Context) {
	wanted, cancel := context.WithCancel(wanted)
	defer cancel()
	defer context.AfterFunc(alive, cancel)()
	began := time.Now()
	started := make(chan struct{})
	var wg sync.WaitGroup
	if p.startup == nil {
		close(started)
	} else {
		wg.Go(func() {
			p.loop(wanted, "startup", p.startup, began, func(f finding) (more bool) {
				if f.outcome == sick {
					p.unhealthy("startup", p.startup, f.why)
				} else {
					p.started()
					close(started)
				}
				return false
			})
		})
	}
	after := func(ctx context.Context, probe *cluster.Probe, f func()) {
		if probe == nil {
			return
		}
		wg.Go(func() {
			select {
			case <-ctx.Done():
			case <-started:
				f()
			}
		})
	}
	after(wanted, p.liveness, func() {
		p.loop(wanted, "liveness", p.liveness, began, func(f finding) (more bool) {
			if f.outcome == sick {
				p.unhealthy("liveness", p.liveness, f.why)
			}
			return f.outcome == healthy
		})
	})
	after(alive, p.readiness, func() {
		p.loop(alive, "readiness", p.readiness, began, func(f finding) (more bool) {
			p.ready(f.outcome == healthy, f.why)
			return true
		})
	})
	wg.Wait()
}

// loop makes one probe again and again, the first time its initial delay after
// the container began, and calls settled with what it has settled on, until
// that says no or ctx ends. A container may end for its health only when a
// period has passed: the kubelet makes the first probe by then, we at once.
func (p *prober) loop(ctx context.Context, kind string, probe *cluster.Probe, began time.Time, settled func(finding) bool) {
	sleep(ctx, time.Until(began.Add(probe.InitialDelay)))
	period := cmp.Or(max(probe.Period, 0), 10*time.Second)
	tick := time.NewTicker(period)
	defer tick.Stop()
	var t tally
	for ctx.Err() == nil {
		f := p.once(ctx, probe)
		if ctx.Err() != nil {
			return
		}
		if f.outcome == noAnswer {
			p.lost(kind, f.why)
		}
		early := time.Since(began) < period
		if f.outcome != healthy && !early {
			p.failed(kind, f)
		}
		early = early && kind != "readiness" && f.outcome == sick
		if !early && t.count(f.outcome, probe) && !settled(f) {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// once makes a probe within its time.
func (p *prober) once(ctx context.Context, probe *cluster.Probe) finding {
	limit := cmp.Or(max(probe.Timeout, 0), time.Second)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	f := p.ask(ctx, &probe.Handler)
	if ctx.Err() != nil && f.outcome != healthy {
		return finding{sick, "no answer within " + limit.String()}
	}
	return f
}

// tally counts equal outcomes in a row.
type tally struct {
	last outcome
	run  int
}

// count reports whether the probe now settles on o: as often in a row as its
// threshold says.
func (t *tally) count(o outcome, p *cluster.Probe) bool {
	if o == noAnswer {
		return false
	}
	if t.run++; o != t.last {
		t.last, t.run = o, 1
	}
	if o == sick {
		return t.run >= cmp.Or(p.FailureThreshold, 3)
	}
	return t.run >= cmp.Or(p.SuccessThreshold, 1)
}
