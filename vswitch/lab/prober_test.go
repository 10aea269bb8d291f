package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vswitch/vswitch/cluster"
)

// TestProber: what a container hears of its probes, and when, in seconds after
// its start. Letters of an answer: + healthy, - sick, ? no answer, . takes
// longer than the probe waits; the last one is given for ever.
func TestProber(t *testing.T) {
	probe := func(name string, change ...func(*cluster.Probe)) *cluster.Probe {
		p := &cluster.Probe{Handler: cluster.Handler{Exec: []string{name}}, Period: 10 * time.Second, Timeout: time.Second,
			SuccessThreshold: 1, FailureThreshold: 3}
		for _, f := range change {
			f(p)
		}
		return p
	}
	delay := func(s int) func(*cluster.Probe) {
		return func(p *cluster.Probe) { p.InitialDelay = time.Duration(s) * time.Second }
	}
	thresholds := func(success, failure int) func(*cluster.Probe) {
		return func(p *cluster.Probe) { p.SuccessThreshold, p.FailureThreshold = success, failure }
	}
	zero := func(p *cluster.Probe) { *p = cluster.Probe{Handler: p.Handler} }
	for _, c := range []struct {
		name                         string
		startup, liveness, readiness *cluster.Probe
		answers                      map[string]string
		unwanted                     int // when the container is told to end; 0: never
		want                         string
	}{
		{"ready at once", nil, nil, probe("r"), map[string]string{"r": "+"}, 0, "0 ready; 10 ready; 20 ready; 30 ready; 40 ready"},
		{"ready later", nil, nil, probe("r", delay(12)), map[string]string{"r": "--+"}, 0, "32 ready; 42 ready"},
		{"ready, and not", nil, nil, probe("r", thresholds(1, 2)), map[string]string{"r": "+-+--"}, 0, "0 ready; 20 ready; 40 not ready (no)"},
		{"twice to be ready", nil, nil, probe("r", thresholds(2, 1)), map[string]string{"r": "+-++"}, 0, "10 not ready (no); 30 ready; 40 ready"},
		{"no answer", nil, nil, probe("r", thresholds(1, 1)), map[string]string{"r": "?+?-"}, 0,
			"0 readiness lost; 10 ready; 20 readiness lost; 30 not ready (no); 40 not ready (no)"},
		{"too slow", nil, nil, probe("r"), map[string]string{"r": "."}, 0, "21 not ready (no answer within 1s); 31 not ready (no answer within 1s); 41 not ready (no answer within 1s)"},
		{"alive", nil, probe("l"), nil, map[string]string{"l": "+--+"}, 0, ""},
		{"dies", nil, probe("l", delay(5)), nil, map[string]string{"l": "+-"}, 0, "35 liveness failed (no)"},
		{"dies at once", nil, probe("l", thresholds(1, 1)), nil, map[string]string{"l": "-"}, 0, "10 liveness failed (no)"},
		{"defaults", nil, probe("l", zero), nil, map[string]string{"l": "-"}, 0, "30 liveness failed (no)"},
		{"starts, then the rest", probe("s"), probe("l", thresholds(1, 1)), probe("r"), map[string]string{"s": "-+", "l": "-", "r": "+"}, 0,
			"10 started; 10 liveness failed (no); 10 ready; 20 ready; 30 ready; 40 ready"},
		{"started, but not for long enough", probe("s"), nil, probe("r", delay(35)), map[string]string{"s": "+", "r": "+"}, 0, "0 started; 35 ready; 45 ready"},
		{"never starts", probe("s", thresholds(1, 2)), probe("l"), probe("r"), map[string]string{"s": "-", "l": "-", "r": "+"}, 0, "20 startup failed (no)"},
		{"told to end", nil, probe("l"), probe("r"), map[string]string{"l": "-", "r": "+"}, 15, "0 ready; 10 ready; 20 ready; 30 ready; 40 ready"},
		{"told to end before it started", probe("s"), nil, probe("r"), map[string]string{"s": "-", "r": "+"}, 15, ""},
		{"asks nothing", nil, nil, nil, nil, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var mu sync.Mutex
				var heard []string
				hear := func(format string, args ...any) {
					mu.Lock()
					defer mu.Unlock()
					heard = append(heard, fmt.Sprintf("%d ", time.Since(began)/time.Second)+fmt.Sprintf(format, args...))
				}
				answers := map[string]string{}
				for k, v := range c.answers {
					answers[k] = v
				}
				p := &prober{startup: c.startup, liveness: c.liveness, readiness: c.readiness,
					ask: func(ctx context.Context, h *cluster.Handler) finding {
						mu.Lock()
						left := answers[h.Exec[0]]
						if len(left) > 1 {
							answers[h.Exec[0]] = left[1:]
						}
						mu.Unlock()
						switch left[0] {
						case '+':
							return finding{outcome: healthy}
						case '-':
							return finding{sick, "no"}
						case '.':
							<-ctx.Done()
							return finding{sick, "killed"}
						}
						return finding{noAnswer, "lost"}
					},
					started: func() { hear("started") },
					ready: func(ok bool, why string) {
						if ok {
							hear("ready")
						} else {
							hear("not ready (%s)", why)
						}
					},
					unhealthy: func(kind string, _ *cluster.Probe, why string) { hear("%s failed (%s)", kind, why) },
					lost:      func(kind, _ string) { hear("%s lost", kind) },
					failed:    func(string, finding) {}, // TestProberTells
				}
				alive, over := context.WithTimeout(t.Context(), 49*time.Second)
				defer over()
				wanted := alive
				if c.unwanted > 0 {
					var stop func()
					wanted, stop = context.WithTimeout(t.Context(), time.Duration(c.unwanted)*time.Second)
					defer stop()
				}
				p.run(alive, wanted)
				if time.Since(began) > 49*time.Second {
					t.Errorf("it probes on for %s", time.Since(began))
				}
				// At one time, two probes may be heard in any order.
				slices.SortStableFunc(heard, func(a, b string) int {
					var x, y int
					fmt.Sscan(a, &x)
					fmt.Sscan(b, &y)
					if x != y {
						return x - y
					}
					return strings.Compare(order(a), order(b))
				})
				if got := strings.Join(heard, "; "); got != c.want {
					t.Errorf("heard %q, want %q", got, c.want)
				}
			})
		})
	}
}

// TestProberTells: each finding that is not healthy is told, but for those of the
// first period.
func TestProberTells(t *testing.T) {
	for _, c := range []struct {
		name  string
		delay time.Duration
		want  []string // findings that are told, in seconds after the start
	}{
		{"at once", 0, []string{"10 lost", "30 no", "40 no"}},
		{"after half a period", 5 * time.Second, []string{"15 lost", "35 no", "45 no"}},
		{"after two periods", 20 * time.Second, []string{"20 no", "30 lost"}},
	} {
		for _, kind := range []string{"startup", "liveness", "readiness"} {
			t.Run(kind+" "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					began := time.Now()
					answers := []finding{{sick, "no"}, {noAnswer, "lost"}, {healthy, "a warning"}, {sick, "no"}, {sick, "no"}}
					var told []string
					p := &prober{
						ask: func(context.Context, *cluster.Handler) (f finding) {
							f, answers = answers[0], answers[1:]
							return f
						},
						started: func() {}, ready: func(bool, string) {}, lost: func(string, string) {},
						unhealthy: func(string, *cluster.Probe, string) {},
						failed: func(which string, f finding) {
							if which != kind {
								t.Errorf("the %s probe failed", which)
							}
							told = append(told, fmt.Sprintf("%d %s", time.Since(began)/time.Second, f.why))
						},
					}
					probe := &cluster.Probe{InitialDelay: c.delay, Period: 10 * time.Second, SuccessThreshold: 2, FailureThreshold: 3}
					*map[string]**cluster.Probe{"startup": &p.startup, "liveness": &p.liveness, "readiness": &p.readiness}[kind] = probe
					ctx, cancel := context.WithTimeout(t.Context(), 49*time.Second)
					defer cancel()
					p.run(ctx, ctx)
					if !slices.Equal(told, c.want) {
						t.Errorf("told %q, want %q", told, c.want)
					}
				})
			})
		}
	}
}

// order sorts what is heard at the same time.
func order(s string) string {
	_, what, _ := strings.Cut(s, " ")
	if what == "started" {
		return ""
	}
	return what
}
