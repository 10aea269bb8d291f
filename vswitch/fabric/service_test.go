package fabric

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/cluster"
	"vswitch/vswitch/packet"
	"vswitch/vswitch/port"
)

// talk plays a connection from somebody to a service: question and answer,
// three times over, so that known flows are seen, too. It returns who answered,
// what he saw as the source, and the last answer.
func (w *world) talk(from string, src, dst netip.AddrPort, udp bool, backends ...string) (backend string, seen netip.AddrPort, answer arrival) {
	w.Helper()
	ask := seg{src: src, dst: dst, udp: udp, flags: "S", payload: []byte("question")}
	for i := range 3 {
		w.send(from, ask)
		name, got := w.one(backends...)
		if backend == "" {
			backend, seen = name, got.src
		}
		if name != backend || got.src != seen || got.dst != w.at(name, 8080) || string(got.payload) != "question" {
			w.Fatalf("packet %d: %s got %v -> %v, want %v -> %v at %s", i, name, got.src, got.dst, seen, w.at(name, 8080), backend)
		}
		flags := "SA"
		if i > 0 {
			flags = "A"
		}
		back := got.reverse(flags)
		back.payload = []byte("answer")
		w.send(backend, back)
		_, answer = w.one(from)
		if answer.src != dst || answer.dst != src || string(answer.payload) != "answer" {
			w.Fatalf("packet %d: %s got %v -> %v, want %v -> %v", i, from, answer.src, answer.dst, dst, src)
		}
		ask.flags = "A"
		w.now += time.Second
	}
	return backend, seen, answer
}

func bothProtocols(w *world, f func(udp bool)) {
	for _, udp := range []bool{false, true} {
		f(udp)
	}
}

// TestServicePods: pods reach a service on their node and on others, and see the
// answers come from it; backends see the pods.
func TestServicePods(t *testing.T) {
	for _, c := range []struct {
		name, endpoints string
		ttl             uint8 // of the answers
	}{
		{"same node", "b", 64}, // bridged: a is in b's range
		{"another node", "c", 62},
		{"several", "b c d e", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{}, func(w *world) {
				w.serve(c.endpoints)
				bothProtocols(w, func(udp bool) {
					_, seen, answer := w.talk("a", w.at("a", 1000), w.at("vip", 80), udp, "b", "c", "d", "e")
					if seen != w.at("a", 1000) {
						w.Errorf("the backend saw %v", seen)
					}
					if c.ttl != 0 && answer.ttl != c.ttl {
						w.Errorf("TTL of the answer is %d, want %d", answer.ttl, c.ttl)
					}
				})
			})
		})
	}
}

// TestServiceSpread: clients are spread over the backends.
func TestServiceSpread(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("b c d e")
		got := map[string]int{}
		for i := range 200 {
			w.send("a", seg{src: w.at("a", uint16(1000+i)), dst: w.at("vip", 80), flags: "S"})
			name, _ := w.one("b", "c", "d", "e")
			got[name]++
		}
		for _, b := range []string{"b", "c", "d", "e"} {
			if got[b] < 25 || got[b] > 80 { // 50 ± 4 standard deviations
				w.Errorf("%s got %d of 200", b, got[b])
			}
		}
	})
}

// TestB10Hairpin: a pod that reaches itself through its service sees its node.
func TestB10Hairpin(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("a")
		bothProtocols(w, func(udp bool) {
			_, seen, _ := w.talk("a", w.at("a", 1000), w.at("vip", 80), udp, "a")
			if seen != w.at("n1", 1000) {
				w.Errorf("the pod saw %v", seen)
			}
			// From the port that it listens on, too.
			w.talk("a", w.at("a", 8080), w.at("vip", 80), udp, "a")
		})
	})
}

// TestServiceMasqueradesPods: on a node port or load balancer's address with policy
// Cluster, pods are masqueraded; with Local they are not, wherever the backend is.
func TestServiceMasqueradesPods(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		for port, dst := range map[uint16]netip.AddrPort{2000: w.at("n1", 30080), 3000: w.at("lb", 80)} {
			w.serve("c")
			if _, seen, _ := w.talk("a", w.at("a", port), dst, false, "c"); seen != w.at("n1", port) {
				w.Errorf("%v: the backend saw %v", dst, seen)
			}
			// Two pods, the same port: both connections work.
			if _, seen, _ := w.talk("b", w.at("b", port), dst, false, "c"); seen.Addr() != w.ip("n1") || seen.Port() == port {
				w.Errorf("%v: the backend saw %v", dst, seen)
			}
			w.serve("c", local)
			if _, seen, _ := w.talk("a", w.at("a", port+1), dst, false, "c"); seen != w.at("a", port+1) {
				w.Errorf("%v, policy Local: the backend saw %v", dst, seen)
			}
		}
		// The node port of another node: that one masquerades, and goes on to a third.
		w.serve("e")
		if _, seen, _ := w.talk("a", w.at("a", 1002), w.at("n2", 30080), false, "e"); seen != w.at("n2", 1002) {
			w.Errorf("the backend saw %v", seen)
		}
		// And back to the node that the client is on.
		w.serve("b")
		if _, seen, _ := w.talk("a", w.at("a", 1003), w.at("n2", 30080), false, "b"); seen != w.at("n2", 1003) {
			w.Errorf("the backend saw %v", seen)
		}
	})
}

// TestMasqueradeAll hides pods from the backends of a cluster IP. Clients outside are
// treated as the mode says that is for them, wherever the backend is.
func TestMasqueradeAll(t *testing.T) {
	for mode, outside := range map[string]string{agent.PreserveClient: "client", agent.MasqueradeClient: "n1"} {
		t.Run(mode, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{MasqueradeAll: true, ExternalClient: mode}, func(w *world) {
				for i, backend := range []string{"b", "c"} {
					w.serve(backend)
					sport := uint16(1000 + i)
					if _, seen, _ := w.talk("a", w.at("a", sport), w.at("vip", 80), false, backend); seen != w.at("n1", sport) {
						w.Errorf("%s saw %v", backend, seen)
					}
					sport += 1000
					if _, seen, _ := w.talk("client", w.at("client", sport), w.at("vip", 80), false, backend); seen != w.at(outside, sport) {
						w.Errorf("%s saw %v, want %s", backend, seen, outside)
					}
				}
			})
		})
	}
}

// TestClientOutside: who comes from outside, to every kind of address, with the
// backend here and elsewhere.
func TestClientOutside(t *testing.T) {
	for mode, preserve := range map[string]bool{agent.PreserveClient: true, agent.MasqueradeClient: false} {
		t.Run(mode, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{ExternalClient: mode}, func(w *world) {
				sport := uint16(1000)
				for _, backend := range []string{"a", "c", "e"} {
					w.serve(backend)
					for _, dst := range []netip.AddrPort{w.at("n1", 30080), w.at("lb", 80), w.at("vip", 80)} {
						bothProtocols(w, func(udp bool) {
							sport++
							want := w.at("n1", sport)
							if preserve {
								want = w.at("client", sport)
							}
							_, seen, answer := w.talk("client", w.at("client", sport), dst, udp, backend)
							if seen != want {
								w.Errorf("%v with %s: the backend saw %v, want %v", dst, backend, seen, want)
							}
							ttl := uint8(62)
							if backend == "a" {
								ttl = 63
							}
							if answer.ttl != ttl {
								w.Errorf("%v with %s: TTL %d, want %d", dst, backend, answer.ttl, ttl)
							}
						})
					}
				}
			})
		})
	}
}

// TestClientOutsideUnplaced: an endpoint that does not say its node is local to none,
// so that the node where it is could not choose it. It is reached all the same, by the
// address of the node where the client came in.
func TestClientOutsideUnplaced(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		for i, c := range []struct{ backend, seen string }{{"a", "client"}, {"c", "n1"}, {"e", "n1"}} {
			w.serve(c.backend)
			sl := *w.state.EndpointSlices.Get(cluster.Key{Namespace: "x", Name: "web-1"})
			sl.Endpoints = slices.Clone(sl.Endpoints)
			sl.Endpoints[0].Node = ""
			w.follow([]*cluster.Service{w.state.Service(cluster.Key{Namespace: "x", Name: "web"})}, []*cluster.EndpointSlice{&sl})
			sport := uint16(1000 + i)
			bothProtocols(w, func(udp bool) {
				if _, seen, _ := w.talk("client", w.at("client", sport), w.at("lb", 80), udp, c.backend); seen != w.at(c.seen, sport) {
					w.Errorf("%s saw %v, want %v", c.backend, seen, w.at(c.seen, sport))
				}
			})
		}
	})
}

// TestClientOutsideLocal: policy Local keeps the client's address and goes to no other node.
func TestClientOutsideLocal(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{ExternalClient: agent.MasqueradeClient}, func(w *world) {
		w.serve("a c", local)
		for i := range 20 {
			sport := uint16(1000 + i)
			if _, seen, _ := w.talk("client", w.at("client", sport), w.at("lb", 80), false, "a"); seen != w.at("client", sport) {
				w.Errorf("the backend saw %v", seen)
			}
		}
		w.serve("c", local)
		w.send("client", seg{src: w.at("client", 3000), dst: w.at("lb", 80), flags: "S"})
		w.none("n1", "no-local-endpoints")
		w.send("client", seg{src: w.at("client", 3000), dst: w.at("lb", 80), flags: "A"})
		w.none("n1", "no-local-endpoints")
	})
}

// TestClientOutsideSpoofs: nobody outside speaks as somebody of the cluster, and no
// peer lets in a client to what is no service.
func TestClientOutsideSpoofs(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		for _, name := range []string{"a", "c", "n1", "n2", "vip", "free"} {
			w.send("client", seg{src: w.at(name, 1000), dst: w.at("lb", 80), flags: "S"})
			if out := w.all(); len(out) != 0 {
				w.Errorf("as %s: %s", name, describeArrivals(out))
			}
		}
		w.none("n1", "spoofed")
		// An error that claims to come from the service.
		w.talk("client", w.at("client", 2000), w.at("lb", 80), true, "c")
		w.send("c", seg{src: w.at("c", 8080), dst: w.at("client", 2000), udp: true, payload: make([]byte, 50)})
		_, answer := w.one("client")
		w.raw("client", icmpError(w.T, answer, w.ip("a"), "port", 0, func(a netip.Addr) ([6]byte, [6]byte) { return w.macs("client", a) }), nil)
		if out := w.all(); len(out) != 0 {
			w.Errorf("an error from a pod's address: %s", describeArrivals(out))
		}
		w.send("client", seg{src: w.at("client", 1000), dst: w.at("c", 8080), flags: "S"})
		w.none("n2", "spoofed")
	})
}

// TestClientMovesToAnotherNode: when datagrams of a client come in at another
// node, they are no forgeries.
func TestClientMovesToAnotherNode(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("e")
		w.talk("client", w.at("client", 1000), w.at("lb", 80), true, "e")
		w.talk("elsewhere", w.at("client", 1000), w.at("lb", 80), true, "e")
		w.talk("client", w.at("client", 1000), w.at("lb", 80), true, "e")
	})
}

// TestNodeUsesOthersNodePort: a node that is the client of another's node port is
// masqueraded even where clients outside are not.
func TestNodeUsesOthersNodePort(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("e")
		// A frame as n1 sends it: by way of its pod a it would be spoofed.
		to, src := w.f.Node("n2").vtep, w.f.Node("n1").vtep
		s := seg{src: w.at("n1", 1000), dst: w.at("n2", 30080), flags: "S"}
		n2 := w.f.Node("n2")
		n2.wire.put(inFlight{packet.Packet{Len: uint32(len(s.frame(w.T, to, src))), In: packet.PeerBase | w.f.Node("n1").wire.id}, s.frame(w.T, to, src)})
		w.f.Settle()
		if _, got := w.one("e"); got.src != w.at("n2", 1000) {
			w.Errorf("the backend saw %v", got.src)
		}
	})
}

// TestB26InsideWithPolicyLocal: pods and the node itself use a node port or a load
// balancer's address with policy Local on a node without endpoint as if there were
// no policy: pods with their own address, the node with the one that answers find.
// A client outside who comes in there is dropped in silence.
func TestB26InsideWithPolicyLocal(t *testing.T) {
	for _, mode := range []string{agent.PreserveClient, agent.MasqueradeClient} {
		t.Run(mode, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{ExternalClient: mode}, func(w *world) {
				w.host("n1")
				external := w.ip("lb").Next()
				w.serve("c e", local, func(s *cluster.Service) { s.ExternalIPs = []netip.Addr{external} })
				sport := uint16(1000)
				for _, dst := range []netip.AddrPort{w.at("lb", 80), w.at("n1", 30080), netip.AddrPortFrom(external, 80)} {
					bothProtocols(w, func(udp bool) {
						for range 8 { // whichever endpoint it is
							for _, from := range []string{"a", "n1"} {
								sport++
								if _, seen, _ := w.talk(from, w.at(from, sport), dst, udp, "c", "e"); seen != w.at(from, sport) {
									w.Errorf("%s to %v: the backend saw %v", from, dst, seen)
								}
							}
						}
						w.send("client", seg{src: w.at("client", sport), dst: dst, udp: udp, flags: "S"})
						w.none("n1", "no-local-endpoints")
					})
				}
				// At another node's port, wherever the endpoint is.
				for backend, want := range map[string]netip.AddrPort{"b": w.at("n2", 500), "c": w.at("a", 500), "e": w.at("n2", 500)} {
					w.serve(backend, local)
					if _, seen, _ := w.talk("a", w.at("a", 500), w.at("n2", 30080), true, backend); seen != want {
						w.Errorf("at another node's port: %s saw %v, want %v", backend, seen, want)
					}
				}
				// The endpoint's own pod, on its own node, sees itself as its node.
				w.serve("c", local)
				if _, seen, _ := w.talk("c", w.at("c", 1000), w.at("lb", 80), false, "c"); seen.Addr() != w.ip("n2") {
					w.Errorf("hairpin: the pod saw %v", seen)
				}
				// Without any endpoint it is refused, to those inside as to all.
				w.serve("", local)
				for _, from := range []string{"a", "n1", "client"} {
					w.send(from, seg{src: w.at(from, 900), dst: w.at("lb", 80), flags: "S"})
					if _, got := w.one(from); got.flags != "RA" {
						w.Errorf("%s got %s", from, got.flags)
					}
				}
			})
		})
	}
}

// TestB27PolicyOfClusterIP: externalTrafficPolicy says nothing of the cluster IP,
// whoever asks, and internalTrafficPolicy nothing of the other addresses.
func TestB27PolicyOfClusterIP(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.host("n1")
		w.serve("c", local)
		for _, from := range []string{"a", "n1", "client"} {
			bothProtocols(w, func(udp bool) {
				if _, seen, _ := w.talk(from, w.at(from, 1000), w.at("vip", 80), udp, "c"); seen != w.at(from, 1000) {
					w.Errorf("%s: the backend saw %v", from, seen)
				}
			})
		}
		w.serve("c", func(s *cluster.Service) { s.InternalLocal = true })
		for i, from := range []string{"a", "n1", "client"} {
			w.send(from, seg{src: w.at(from, 2000), dst: w.at("vip", 80), flags: "S"})
			w.none("n1", "no-local-endpoints")
			if n := w.dropped("n1", "no-local-endpoints"); n != uint64(i+1) {
				w.Errorf("%s: %d packets were dropped, want %d", from, n, i+1)
			}
			w.talk(from, w.at(from, 2000), w.at("lb", 80), false, "c")
			w.talk(from, w.at(from, 2000), w.at("n1", 30080), false, "c")
		}
	})
}

// TestB24NoEndpoints: a service without endpoints says so at once, at all its
// addresses and to everybody.
func TestB24NoEndpoints(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("")
		for from, dsts := range map[string][]netip.AddrPort{
			"a":      {w.at("vip", 80), w.at("vip", 81), w.at("lb", 80), w.at("n1", 30080)},
			"b":      {w.at("n2", 30080)}, // which n1 has connections for, as it only passes it on
			"client": {w.at("vip", 80), w.at("vip", 81), w.at("lb", 80), w.at("n1", 30080)},
		} {
			for i, dst := range dsts {
				src := w.at(from, uint16(1000+i))
				w.send(from, seg{src: src, dst: dst, flags: "S"})
				if _, got := w.one(from); got.flags != "RA" || got.src != dst || got.dst != src {
					w.Errorf("%s to %v: got %v -> %v %s, want a reset", from, dst, got.src, got.dst, got.flags)
				}
				sent := w.send(from, seg{src: src, dst: dst, udp: true, payload: []byte("hello, is anybody there?")})
				_, got := w.one(from)
				got.quotes(w.T, "port", 0, sent)
			}
		}
		for n, want := range map[string]int{"n1": 2, "n2": 0} {
			if w.conns(n) != want {
				w.Errorf("%d connections are left at %s, want %d", w.conns(n), n, want)
			}
		}
		w.send("a", seg{src: w.at("a", 1000), dst: w.at("free", 80), flags: "S"})
		w.none("n1", "unallocated-service-address")
	})
}

// question asks the service from one socket, and says who was asked.
func (w *world) question(backends ...string) string {
	w.Helper()
	w.now += 100 * time.Millisecond
	w.send("a", seg{src: w.at("a", 1000), dst: w.at("vip", 80), udp: true, payload: []byte("?")})
	name, got := w.one(backends...)
	if got.dst != w.at(name, 8080) {
		w.Errorf("%s got a packet to %v", name, got.dst)
	}
	return name
}

// TestB01StaleUDP: one socket's packets go to another endpoint as soon as its
// own is gone, and come back to none that has gone.
func TestB01StaleUDP(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("b c")
		first := w.question("b", "c")
		for range 5 {
			w.question(first)
		}
		other := map[string]string{"b": "c", "c": "b"}[first]
		w.serve(other)
		for range 5 {
			w.question(other)
		}
		// The first one comes back: the socket stays where it is.
		w.serve("b c")
		w.question(other)
		// It drains while it serves, and moves when it does not.
		w.serve(first + " -" + other)
		w.question(other)
		w.serve(first + " !" + other)
		w.question(first)
		// A late answer of the one that is gone is not taken for one of the service.
		w.send(other, seg{src: w.at(other, 8080), dst: w.at("a", 1000), udp: true})
		if _, got := w.one("a"); got.src == w.at("vip", 80) {
			w.Error("an endpoint that is gone still answers for the service")
		}
	})
}

// TestB01Moves: datagrams of one socket move from endpoint to endpoint, in every
// order: nothing of what was decided for the one is left for the next, neither a
// translated source nor the node that has it.
func TestB01Moves(t *testing.T) {
	for mode, outside := range map[string]string{agent.PreserveClient: "client", agent.MasqueradeClient: "n1"} {
		t.Run(mode, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{ExternalClient: mode}, func(w *world) {
				for _, c := range []struct{ from, at string }{{"client", "lb"}, {"a", "vip"}, {"a", "n1"}, {"a", "n2"}, {"a", "lb"}} {
					front := w.at(c.at, 80)
					if c.at[0] == 'n' {
						front = w.at(c.at, 30080)
					}
					for _, backend := range []string{"c", "b", "e", "a", "c", "e", "a", "b", "a", "e", "b", "c"} {
						w.serve(backend)
						seen := w.ip(c.from)
						switch {
						case c.from == "client":
							seen = w.ip(outside)
						case c.at == "n2":
							seen = w.ip("n2")
						case c.at != "vip" || backend == "a":
							seen = w.ip("n1")
						}
						for range 2 {
							ask := seg{src: w.at(c.from, 700), dst: front, udp: true, payload: []byte("?")}
							w.send(c.from, ask)
							_, got := w.one(backend)
							if got.src.Addr() != seen || got.dst != w.at(backend, 8080) {
								w.Errorf("%s to %s: %s got %v -> %v, want from %v", c.from, c.at, backend, got.src, got.dst, seen)
							}
							w.send(backend, got.reverse(""))
							if _, back := w.one(c.from); back.src != front || back.dst != ask.src {
								w.Errorf("%s to %s with %s: the answer is %v -> %v", c.from, c.at, backend, back.src, back.dst)
							}
						}
					}
				}
			})
		})
	}
}

// TestB02FirstEndpoint: a socket's fixed source port gets through as soon as there
// is an endpoint.
func TestB02FirstEndpoint(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("")
		for range 3 {
			sent := w.send("a", seg{src: w.at("a", 1000), dst: w.at("vip", 80), udp: true, payload: []byte("is anybody there already?")})
			_, got := w.one("a")
			got.quotes(w.T, "port", 0, sent)
		}
		w.serve("c")
		w.question("c")
	})
}

// TestB02BecomesService: the same for an address that was a client's outside
// before it was a service's.
func TestB02BecomesService(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		dst := netip.AddrPortFrom(w.ip("client"), 80)
		w.send("a", seg{src: w.at("a", 1000), dst: dst, udp: true})
		w.one("client")
		w.serve("c", func(s *cluster.Service) { s.ExternalIPs = []netip.Addr{dst.Addr()} })
		w.send("a", seg{src: w.at("a", 1000), dst: dst, udp: true})
		w.one("c")
	})
}

// TestB03LastEndpoint: it is told as soon as there is none any more.
func TestB03LastEndpoint(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		w.question("c")
		w.serve("")
		for range 3 {
			sent := w.send("a", seg{src: w.at("a", 1000), dst: w.at("vip", 80), udp: true, payload: []byte("is anybody there any more?")})
			_, got := w.one("a")
			got.quotes(w.T, "port", 0, sent)
		}
		if n := w.conns("n1"); n != 0 {
			w.Errorf("%d connections are left", n)
		}
	})
}

// TestB03ServiceDeleted: so it is when the service is gone, at all its addresses,
// and its backend hears no more; what is a connection goes on. A node that does not
// know yet which services there are keeps both.
func TestB03ServiceDeleted(t *testing.T) {
	for _, mode := range []string{agent.PreserveClient, agent.MasqueradeClient} {
		t.Run(mode, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{ExternalClient: mode}, func(w *world) {
				for i, c := range []struct {
					from, at string
					port     uint16
				}{{"a", "vip", 80}, {"client", "vip", 80}, {"a", "lb", 80}, {"client", "lb", 80}, {"a", "n1", 30080}, {"client", "n1", 30080}, {"a", "n2", 30080}} {
					w.serve("c")
					src, dst := w.at(c.from, uint16(2000+i)), w.at(c.at, c.port)
					bothProtocols(w, func(udp bool) { w.talk(c.from, src, dst, udp, "c") })
					ask := seg{src: src, dst: dst, flags: "A", payload: []byte("still there?")}
					asked := func(udp bool) {
						w.Helper()
						ask.udp = udp
						w.send(c.from, ask)
						w.one("c")
					}
					starting := func(yes bool) {
						for _, n := range w.f.Nodes {
							tables := *n.Switch.Tables()
							tables.Starting = yes
							n.Switch.Publish(&tables)
						}
					}
					w.follow(nil, nil)
					starting(true)
					bothProtocols(w, asked)
					starting(false)
					asked(false)
					ask.udp = true
					w.send(c.from, ask)
					for name := range w.all() {
						if name != c.from {
							w.Errorf("%s to %s:%d: %s still gets datagrams", c.from, c.at, c.port, name)
						}
					}
				}
			})
		})
	}
}

// TestB05TargetPort: a new target port counts for sockets that talk already.
func TestB05TargetPort(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		w.question("c")
		next := *w.state
		key := cluster.Key{Namespace: "x", Name: "web-1"}
		sl := *next.EndpointSlices.Get(key)
		sl.Ports = slices.Clone(sl.Ports)
		sl.Ports[1].Port = 9090
		next.EndpointSlices = next.EndpointSlices.With(key, &sl)
		w.f.Follow(w.state.Diff(&next))
		w.state = &next
		w.send("a", seg{src: w.at("a", 1000), dst: w.at("vip", 80), udp: true})
		if _, got := w.one("c"); got.dst != w.at("c", 9090) {
			w.Errorf("got %v", got.dst)
		}
	})
}

// TestTCPEndpointGone: a connection to an endpoint that is gone is reset, one to an
// endpoint that leaves goes on; then the client may begin again, with the same port.
func TestTCPEndpointGone(t *testing.T) {
	for _, from := range []string{"a", "client"} {
		t.Run(from, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{}, func(w *world) {
				src, dst := w.at(from, 1000), w.at("vip", 80)
				w.serve("c")
				w.talk(from, src, dst, false, "c")
				data := seg{src: src, dst: dst, flags: "A", payload: []byte("x")}
				for _, endpoints := range []string{"-c", "!c", "!c d", "e"} {
					w.serve(endpoints)
					w.send(from, data)
					w.one("c")
				}
				w.pods["c"].Detach()
				w.pods["c"].Node.Switch.Conns().DeleteByAddr(packet.AddrFrom(w.at("c", 0).Addr())) // as the agent does
				w.send(from, data)
				if _, got := w.one(from); got.flags != "R" || got.src != dst {
					w.Errorf("got %v %s, want a reset", got.src, got.flags)
				}
				w.talk(from, src, dst, false, "e")
			})
		})
	}
}

// TestTCPWithoutConnection: what begins nothing is reset at a service's address, and
// leaves nothing behind; a reset is not answered.
func TestTCPWithoutConnection(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		for _, from := range []string{"a", "client"} {
			for _, flags := range []string{"A", "FA", "SA"} {
				w.send(from, seg{src: w.at(from, 1000), dst: w.at("vip", 80), flags: flags})
				if _, got := w.one(from); got.flags != "R" || got.src != w.at("vip", 80) {
					w.Errorf("%s got %v %s, want a reset", from, got.src, got.flags)
				}
			}
			w.send(from, seg{src: w.at(from, 1000), dst: w.at("vip", 80), flags: "R"})
			w.none("n1", "no-connection")
		}
		for _, n := range []string{"n1", "n2"} {
			if w.conns(n) != 0 {
				w.Errorf("%d connections are left at %s", w.conns(n), n)
			}
		}
	})
}

// TestB06OutOfWindow: a segment that is out of any window is translated as all others.
func TestB06OutOfWindow(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		w.talk("a", w.at("a", 1000), w.at("vip", 80), false, "c")
		back := seg{src: w.at("c", 8080), dst: w.at("a", 1000), flags: "A", payload: []byte("old")}
		to, src := w.macs("c", back.dst.Addr())
		frame := back.frame(w.T, to, src)
		seq := 14 + 20 + 4
		if w.v6 {
			seq += 20
		}
		fix := packet.Sum(frame[seq:seq+4], 0)
		frame[seq] ^= 0x80 // 2 GiB away
		at := frame[seq-4+16:]
		sum := uint32(^(uint16(at[0])<<8 | uint16(at[1])))
		sum = uint32(packet.Fold(sum + uint32(^packet.Fold(fix)) + packet.Sum(frame[seq:seq+4], 0)))
		at[0], at[1] = byte(^uint16(sum)>>8), byte(^uint16(sum))
		w.raw("c", frame, nil)
		if _, got := w.one("a"); got.src != w.at("vip", 80) {
			w.Errorf("came from %v", got.src)
		}
		w.talk("a", w.at("a", 1001), w.at("vip", 80), false, "c")
	})
}

// TestB07LateSegments: an orderly close passes to its last ACK, and what comes late
// is translated, too; and a new connection from the same port chooses anew.
func TestB07LateSegments(t *testing.T) {
	for _, from := range []string{"a", "client"} {
		t.Run(from, func(t *testing.T) {
			inFamilies(t, agent.ServiceConfig{}, func(w *world) {
				w.serve("c")
				client, vip := w.at(from, 1000), w.at("vip", 80)
				_, seen, _ := w.talk(from, client, vip, false, "c")
				out := seg{src: client, dst: vip}
				back := seg{src: w.at("c", 8080), dst: seen}
				for i, step := range []struct{ who, flags string }{
					{"client", "FA"}, {"server", "A"}, {"server", "FA"}, {"client", "A"},
					{"server", "FA"}, {"client", "A"}, {"server", "A"}, {"client", "FA"},
				} {
					w.now += 5 * time.Second
					if step.who == "client" {
						out.flags = step.flags
						w.send(from, out)
						w.one("c")
						continue
					}
					back.flags = step.flags
					w.send("c", back)
					if _, got := w.one(from); got.src != vip {
						w.Errorf("step %d: from %v", i, got.src)
					}
				}
				// SYN in TIME_WAIT: the endpoint that is there now gets it.
				w.serve("d e")
				w.talk(from, client, vip, false, "d", "e")
			})
		})
	}
}

// TestSpoofedSynEndsNothing: another pod's SYN with a closed connection's tuple is
// dropped, and the connection's late segments still pass.
func TestSpoofedSynEndsNothing(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		w.talk("a", w.at("a", 1000), w.at("vip", 80), false, "c")
		w.send("a", seg{src: w.at("a", 1000), dst: w.at("vip", 80), flags: "FA"})
		w.one("c")
		w.send("c", seg{src: w.at("c", 8080), dst: w.at("a", 1000), flags: "FA"})
		w.one("a")
		w.send("b", seg{src: w.at("a", 1000), dst: w.at("vip", 80), flags: "S"})
		w.none("n1", "spoofed")
		w.send("c", seg{src: w.at("c", 8080), dst: w.at("a", 1000), flags: "FA"})
		if _, got := w.one("a"); got.src != w.at("vip", 80) {
			w.Errorf("a late segment came from %v", got.src)
		}
	})
}

// TestB11ICMPErrors: whoever sent a packet knows it again in the error about it,
// whatever was translated on the way, and in both directions.
func TestB11ICMPErrors(t *testing.T) {
	for mode, cfg := range map[string]agent.ServiceConfig{
		"preserve": {}, "masquerade": {ExternalClient: agent.MasqueradeClient, MasqueradeAll: true},
	} {
		for _, c := range []struct{ from, backend string }{{"a", "b"}, {"a", "c"}, {"a", "a"}, {"client", "a"}, {"client", "c"}} {
			t.Run(mode+" "+c.from+" to "+c.backend, func(t *testing.T) {
				inFamilies(t, cfg, func(w *world) {
					w.serve(c.backend)
					for i, kind := range []string{"port", "big", "time"} {
						mtu := 0
						if kind == "big" {
							mtu = 1300
						}
						bothProtocols(w, func(udp bool) {
							client, vip := w.at(c.from, uint16(1000+i)), w.at("vip", 80)
							_, seen, _ := w.talk(c.from, client, vip, udp, c.backend)
							// About the question, from the backend itself.
							sent := w.send(c.from, seg{src: client, dst: vip, udp: udp, flags: "A", payload: make([]byte, 100), df: true})
							_, got := w.one(c.backend)
							w.raw(c.backend, icmpError(w.T, got, w.ip(c.backend), kind, mtu, func(a netip.Addr) ([6]byte, [6]byte) { return w.macs(c.backend, a) }), nil)
							_, e := w.one(c.from)
							e.quotes(w.T, kind, mtu, sent)
							if e.src.Addr() != vip.Addr() || e.dst.Addr() != client.Addr() {
								w.Errorf("%s: the error goes from %v to %v", kind, e.src, e.dst)
							}
							// About the answer, from the client.
							sent = w.send(c.backend, seg{src: w.at(c.backend, 8080), dst: seen, udp: udp, flags: "A", payload: make([]byte, 100), df: true})
							_, got = w.one(c.from)
							w.raw(c.from, icmpError(w.T, got, client.Addr(), kind, mtu, func(a netip.Addr) ([6]byte, [6]byte) { return w.macs(c.from, a) }), nil)
							_, e = w.one(c.backend)
							e.quotes(w.T, kind, mtu, sent)
							if e.dst.Addr() != w.ip(c.backend) {
								w.Errorf("%s: the error goes to %v", kind, e.dst)
							}
						})
					}
				})
			})
		}
	}
}

// TestB11SwitchComplains: errors that a switch makes itself, on the first and on the
// second node, are about the packet as it was sent.
func TestB11SwitchComplains(t *testing.T) {
	for mode, cfg := range map[string]agent.ServiceConfig{"preserve": {}, "masquerade": {ExternalClient: agent.MasqueradeClient}} {
		t.Run(mode, func(t *testing.T) {
			inFamilies(t, cfg, func(w *world) {
				w.serve("c")
				for _, from := range []string{"a", "client"} {
					client, vip := w.at(from, 1000), w.at("vip", 80)
					w.talk(from, client, vip, false, "c")
					for ttl := uint8(1); ttl <= 2; ttl++ {
						sent := w.send(from, seg{src: client, dst: vip, flags: "A", payload: make([]byte, 100), ttl: ttl})
						_, e := w.one(from)
						e.quotes(w.T, "time", 0, sent)
					}
				}
				// The client's network takes more than the overlay.
				sent := w.send("client", seg{src: w.at("client", 1000), dst: w.at("vip", 80), flags: "A", payload: make([]byte, 1430), df: true})
				_, e := w.one("client")
				e.quotes(w.T, "big", 1450, sent)
			})
		})
	}
}

// TestB17AffinityLives: a client's choice outlives generations, and
// ends with its time or its endpoint.
func TestB17AffinityLives(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		sticky := func(s *cluster.Service) { s.Affinity = 100 * time.Second }
		w.serve("b c d e", sticky)
		sport := uint16(1000)
		next := func() string {
			sport++
			w.send("a", seg{src: w.at("a", sport), dst: w.at("vip", 80), flags: "S"})
			name, _ := w.one("b", "c", "d", "e")
			return name
		}
		first := next()
		for i := range 30 {
			w.now += 50 * time.Second
			w.serve("b c d e", sticky, func(s *cluster.Service) { s.InternalLocal = false; s.SourceRanges = nil; s.Generation = int64(i) })
			if got := next(); got != first {
				w.Fatalf("connection %d went to %s, not to %s", i, got, first)
			}
		}
		others := ""
		for _, b := range []string{"b", "c", "d", "e"} {
			if b != first {
				others += " " + b
			}
		}
		w.serve(others, sticky)
		second := next()
		if second == first {
			w.Error("the endpoint is gone")
		}
		w.serve("b c d e", sticky)
		if got := next(); got != second {
			w.Errorf("went to %s, not to %s", got, second)
		}
		changed := false
		for range 40 {
			w.now += 101 * time.Second
			changed = changed || next() != second
		}
		if !changed {
			w.Error("the choice outlives its time")
		}
	})
}

// TestServiceOnNewNode: a node that comes later serves what is there.
func TestServiceOnNewNode(t *testing.T) {
	inFamilies(t, agent.ServiceConfig{}, func(w *world) {
		w.serve("c")
		n, err := w.f.AddNode()
		must(w.T, err)
		p := n.Plan("x/new")
		near, far := port.Pipe(1450)
		must(w.T, p.Attach(near))
		w.pods["new"], w.ends["new"] = p, far
		w.talk("new", w.at("new", 1000), w.at("vip", 80), false, "c")
		w.serve("c new")
		w.serve("e")
		w.talk("new", w.at("new", 1001), w.at("vip", 80), false, "e")
	})
}
