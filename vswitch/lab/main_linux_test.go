package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"vswitch/vswitch/agent"
	"vswitch/vswitch/netns"
)

// TestMain makes the test binary a program that a lab can run: its own hidden
// processes, a node (a fake one where a test does not ask for the real one), a
// command that starts a cluster and waits, and processes of pods.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Subcommand:
			os.Exit(Main(os.Args[2:]))
		case "node":
			run := runFakeNode
			if os.Getenv(realNodes) != "" {
				run = runRealNode
			}
			if err := run(os.Args[3]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "test-up":
			os.Exit(testUp())
		case "test-echo":
			os.Exit(testEcho())
		case "test-narrow":
			os.Exit(testNarrow())
		case "test-pmtu":
			os.Exit(testPMTU(os.Args[2:]))
		case "test-talk":
			os.Exit(testTalk(os.Args[2], os.Args[3:]))
		case "test-web":
			os.Exit(testWeb(os.Args[2], os.Args[3]))
		case "test-ticks":
			os.Exit(testTicks(os.Args[2]))
		case "test-die":
			os.Exit(testDie(os.Args[2]))
		case "test-udp":
			os.Exit(testUDP(os.Args[2]))
		case "test-first":
			os.Exit(testFirst(os.Args[2]))
		case "test-answer":
			os.Exit(testAnswer(os.Args[2], os.Args[3:]))
		case "test-hold":
			os.Exit(testHold(os.Args[2]))
		case "test-load":
			os.Exit(testLoad(os.Args[2]))
		case "test-health":
			os.Exit(testHealth(os.Args[2]))
		case "test-reach":
			os.Exit(testReach(os.Args[2:]))
		case "test-name":
			os.Exit(testName(os.Args[2], os.Args[3:]...))
		case "test-ask":
			os.Exit(testAsk())
		case "test-sctp":
			os.Exit(testSCTP(os.Args[2], os.Args[3]))
		case "test-etc":
			os.Exit(testEtc(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

// testUp is a command like vswitch up: it starts the cluster that it reads
// from stdin, says so, and waits.
func testUp() int {
	var o Options
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := Start(context.Background(), o)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	fmt.Println("ended:", c.Wait())
	return 0
}

// fakeNode answers the API of a node. Its switch is a bridge of the kernel, so
// that pods of one node reach each other, and dies with it.
type fakeNode struct {
	config agent.Config
	cidr   netip.Prefix
	bridge *os.File // namespace

	mu   sync.Mutex
	next netip.Addr
	pods map[string]agent.PodStatus
}

func runFakeNode(config string) error {
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	n := &fakeNode{pods: map[string]agent.PodStatus{}}
	if err := yaml.UnmarshalStrict(data, &n.config); err != nil {
		return err
	}
	if n.config.Labels["test"] == "fail" {
		return fmt.Errorf("this node was told to fail")
	}
	n.cidr = fakeRange(n.config.Name)
	n.next = n.cidr.Addr().Next().Next()
	if n.bridge, err = netns.NewFile(); err != nil {
		return err
	}
	if err := netns.DoFile(n.bridge, func() error {
		if err := netns.AddBridge("br0"); err != nil {
			return err
		}
		return netns.SetUp("br0")
	}); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.config.RuntimeDir, fakeLife), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	socket := filepath.Join(n.config.RuntimeDir, agent.SocketName)
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "fake node", n.config.Name)
	return http.Serve(l, n.handler())
}

// fakeLife is the file by which fake nodes know each other.
const fakeLife = "life"

// reached says that the node reaches all others.
func (n *fakeNode) reached() map[string]agent.Reached {
	all := map[string]agent.Reached{}
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(n.config.RuntimeDir), "*", fakeLife)) // the pattern is well-formed
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		if life, err := os.ReadFile(f); err == nil {
			all[name] = agent.Reached{Life: string(life), PodCIDRs: []netip.Prefix{fakeRange(name)}}
		}
	}
	return all
}

func fakeRange(name string) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, name[len(name)-1], 0}), 24)
}

func (n *fakeNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, agent.Status{Name: n.config.Name, PID: os.Getpid(), Ready: true, Underlay: n.config.Overlay.Listen,
			PodCIDRs: []netip.Prefix{n.cidr}, Life: strconv.Itoa(os.Getpid()), Reached: n.reached()}, nil)
	})
	mux.HandleFunc("GET /v1/pods", func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		var pods []agent.PodStatus
		for _, p := range n.pods {
			pods = append(pods, p)
		}
		answer(w, pods, nil)
	})
	mux.HandleFunc("PUT /v1/pods/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		var req agent.PodRequest
		if decode(w, r, &req) {
			status, err := n.attach(req)
			answer(w, status, err)
		}
	})
	mux.HandleFunc("PUT /v1/ports/node", func(w http.ResponseWriter, r *http.Request) {
		var req agent.PortRequest
		if decode(w, r, &req) {
			answer(w, agent.PortStatus{NetNS: req.NetNS, Interface: "eth0", Addresses: n.config.Addresses}, n.attachOwn(req.NetNS))
		}
	})
	mux.HandleFunc("DELETE /v1/pods/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.pods, r.PathValue("namespace")+"/"+r.PathValue("name"))
		answer(w, struct{}{}, nil)
	})
	return mux
}

func (n *fakeNode) attach(r agent.PodRequest) (agent.PodStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := r.Namespace + "/" + r.Name
	if p, ok := n.pods[key]; ok && p.UID == r.UID {
		return p, nil
	}
	ips := r.IPs
	if len(ips) == 0 {
		ips = []netip.Addr{n.next}
		n.next = n.next.Next()
	}
	if err := n.plug(fmt.Sprintf("pod%d", ips[0].As4()[3]), r.NetNS); err != nil {
		return agent.PodStatus{}, err
	}
	if err := netns.Do(r.NetNS, func() error {
		return netns.Configure(netns.Link{Name: "eth0", MTU: 1450, Addrs: []netip.Prefix{netip.PrefixFrom(ips[0], 24)}})
	}); err != nil {
		return agent.PodStatus{}, err
	}
	p := agent.PodStatus{Namespace: r.Namespace, Name: r.Name, UID: r.UID, Node: n.config.Name, IPs: ips, PortSpec: agent.PortSpec{NetNS: r.NetNS}}
	n.pods[key] = p
	return p, nil
}

// plug connects the eth0 of a namespace to the bridge. Called with mu held.
func (n *fakeNode) plug(outer, path string) error {
	return netns.DoFile(n.bridge, func() error {
		ns, err := os.Open(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		_ = netns.DeleteLink(outer) // that of a node that was killed, if there is one
		if err := netns.AddVeth(outer, "eth0", ns); err != nil {
			return err
		}
		if err := netns.SetMaster(outer, "br0"); err != nil {
			return err
		}
		return netns.SetUp(outer)
	})
}

// attachOwn gives the node's namespace its addresses. Nobody reaches them: the
// bridge is no router.
func (n *fakeNode) attachOwn(path string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.plug("own", path); err != nil {
		return err
	}
	l := netns.Link{Name: "eth0", MTU: 1450}
	for _, a := range n.config.Addresses {
		l.Addrs = append(l.Addrs, netip.PrefixFrom(a, a.BitLen()))
	}
	return netns.Do(path, func() error { return netns.Configure(l) })
}

// eventually waits until f returns "" and fails with what it says otherwise.
func eventually(t testing.TB, f func() string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		problem := f()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(problem)
		}
		time.Sleep(wait)
	}
}
