package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/lab/sctp"
	"vswitch/vswitch/trace/servicetest"
)

// question is a row of a table, put to its sender.
type question struct {
	lab    *tableLab
	row    *servicetest.Row
	sticky bool // one endpoint is all that the sender sees
	// checked: the balancer asks nodes whether they have endpoints.
	checked bool
	rounds  int
	seen    map[netip.AddrPort]bool
	last    []attempt
}

// leftOut says why a lab cannot ask a row.
func (q *question) leftOut() string {
	if strings.HasPrefix(q.row.From, "lb") {
		return "no node has a load balancer's address for its own"
	}
	return ""
}

// spread reports whether it is the balancer that says where a packet comes in.
func (q *question) spread() bool {
	return q.row.Outside() && !strings.HasPrefix(q.row.To, "node") && !strings.HasPrefix(q.row.To, "extra")
}

// ask is what the sender's process is to do, as its question i.
func (q *question) ask(i int) ask {
	a := ask{Question: i, Proto: q.row.Proto, Local: q.row.Source, To: q.row.Target, Times: 1, Limit: silenceLimit, Once: q.row.Outside()}
	if q.row.Fate == servicetest.Delivered && len(q.row.Endpoints) > 1 && !q.sticky {
		a.Times = 3 * len(q.row.Endpoints)
	}
	if q.spread() {
		a.Times *= 4
	} else if q.row.Fate == servicetest.Delivered || q.row.Fate == servicetest.Rejected || q.passedToPod() {
		a.Limit = answerLimit
	}
	a.Port = q.lab.ports(a.Times)
	if own := q.row.To == q.row.From || q.row.From == "node1" && q.row.To == "extra1"; own && strings.HasPrefix(q.row.From, "node") {
		a.Via = q.lab.addr("node2", q.row.Source)
		if q.row.From == "node2" {
			a.Via = q.lab.addr("node1", q.row.Source)
		}
	}
	return a
}

// bypasses reports whether the row is also put in past the balancer, which would
// not send its node what that drops, and perhaps not what still serves there.
func (q *question) bypasses() bool {
	r := q.row
	return q.checked && (r.Fate == servicetest.Dropped || r.Fate == servicetest.Delivered && len(r.Endpoints) == 1 && !r.HiddenBy(q.lab.masquerade))
}

// unsent reports whether the balancer seems to send nothing of the row to its
// node.
func (q *question) unsent() bool {
	return len(q.last) == 0 && (q.row.Fate == servicetest.Dropped || q.rounds >= 3)
}

// judge compares what came of some sockets with the row. done: all that it says
// was seen.
func (q *question) judge(attempts []attempt) (problem string, done bool) {
	q.rounds++
	for _, a := range attempts {
		if q.row.Outside() && q.lab.entryOf(q.row.Proto, a.Local, q.row.Target, time.Second) != q.row.At {
			continue
		}
		q.last = append(q.last[max(0, len(q.last)-3):], a)
		if problem := q.judgeOne(&a); problem != "" {
			return problem, false
		}
		switch q.row.Fate {
		case servicetest.Delivered:
		case servicetest.Rejected:
			done = done || a.What == wasRefused
		case servicetest.Passed:
			done = done || a.By != "" || !q.passedToPod()
		default:
			done = true
		}
	}
	if q.row.Fate == servicetest.Delivered {
		n := 0
		for _, e := range q.row.Endpoints {
			if q.seen[e] {
				n++
			}
		}
		done = n == len(q.row.Endpoints) || q.sticky && n > 0
	}
	return "", done
}

func (q *question) judgeOne(a *attempt) string {
	r := q.row
	answered := a.By != ""
	wrong := fmt.Sprintf("%s says %s, answered by %q at port %d, which saw %s", a.Local, a.What, a.By, a.Port, a.Peer)
	switch {
	case r.Fate == servicetest.Delivered && answered:
		at := q.lab.podAt(a, r.Target.Addr())
		if !slices.Contains(r.Endpoints, at) && !q.loosely(a) || a.Peer.Addr() != q.hiddenAs(a.By) {
			return wrong + fmt.Sprintf(", and should see %s", q.hiddenAs(a.By))
		}
		q.seen[at] = true
	case r.Fate == servicetest.Delivered && a.What != wasSilent,
		r.Fate == servicetest.Rejected && a.What != wasSilent && a.What != wasRefused,
		r.Fate == servicetest.Dropped && a.What != wasSilent:
		return wrong
	case q.passedToPod():
		if a.What == wasSilent {
			break // what a busy machine is late with is asked for again
		}
		if a.By != r.To || a.Port != r.Target.Port() || a.Peer.Addr() != r.Source {
			return wrong
		}
	case r.Fate == servicetest.Passed && answered:
		return wrong
	}
	return ""
}

// passedToPod reports whether the row's packets go to a pod as they are, which
// answers them.
func (q *question) passedToPod() bool {
	return q.row.Fate == servicetest.Passed && servicetest.Pods[q.row.To] != ""
}

// loosely reports whether the endpoint's node gave the packet to another of its
// own, as it may.
func (q *question) loosely(a *attempt) bool {
	return q.row.Loose && !q.lab.masquerade && slices.ContainsFunc(q.row.Endpoints, func(e netip.AddrPort) bool {
		return e.Port() == a.Port && servicetest.Pods[q.lab.podOf(e.Addr())] == servicetest.Pods[a.By]
	})
}

// hiddenAs is whom the endpoint named by sees: the sender, or the node that
// masquerades it. A node sees its own gateway, as it takes nothing from itself.
func (q *question) hiddenAs(by string) netip.Addr {
	r := q.row
	if !r.HiddenBy(q.lab.masquerade) {
		return r.Source
	}
	node := r.At
	switch {
	case node != "":
	case strings.HasPrefix(r.From, "node"):
		node = r.From
	case strings.HasPrefix(r.To, "node"):
		node = r.To // takes it in
	case r.To == "extra1":
		node = "node1"
	default:
		node = servicetest.Pods[r.From]
	}
	if node == by {
		node += "-gateway"
	}
	return q.lab.addr(node, r.Source)
}

// addr is the address of a place, in the family of another.
func (f *tableLab) addr(place string, like netip.Addr) netip.Addr {
	family := servicetest.IPv6
	if like.Is4() {
		family = servicetest.IPv4
	}
	a, err := f.places.Addr(place, family)
	if err != nil {
		panic(err) // there is no such table
	}
	return a
}

// podAt is where a pod answered, in the family of an address.
func (f *tableLab) podAt(a *attempt, like netip.Addr) netip.AddrPort {
	for _, s := range f.places[a.By] {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() == like.Is4() {
			return netip.AddrPortFrom(ip, a.Port)
		}
	}
	return netip.AddrPort{}
}

// portOf is the port of its node's switch where what has an address hears.
func (f *tableLab) portOf(a netip.Addr) string {
	if pod := f.podOf(a); pod != "" {
		return "shop/" + pod
	}
	return "node" // of the host network
}

// podOf is the pod of an address, if one has it for itself.
func (f *tableLab) podOf(a netip.Addr) string {
	for pod := range servicetest.Pods {
		if p := f.places[pod]; p[0] == a.String() || p[1] == a.String() {
			return pod
		}
	}
	return ""
}

// entryOf is the node where a client's outside packets came in, "" if that does
// not become known within a time.
func (f *tableLab) entryOf(proto string, src, dst netip.AddrPort, within time.Duration) string {
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		node := f.entered[passed{proto, src, dst}]
		f.mu.Unlock()
		if node != "" || time.Now().After(end) {
			return node
		}
	}
}

// ask is what a sender's process is told to do: to try as many sockets at a
// time.
type ask struct {
	Question int            `json:"question"`
	Proto    string         `json:"proto"`
	Local    netip.Addr     `json:"local"`
	To       netip.AddrPort `json:"to"`
	Times    int            `json:"times"`
	Port     uint16         `json:"port"` // of the first socket; the others have the next ones
	Limit    time.Duration  `json:"limit"`
	// Once: one datagram is all that a socket sends, for the next one might come in
	// elsewhere.
	Once bool `json:"once,omitempty"`
	// Via, if set, is whose way raw packets take.
	Via netip.Addr `json:"via"`
}

// attempt is what came of one socket: who answered, at which port, and whom that
// one saw; or what came instead.
type attempt struct {
	Question int            `json:"question"`
	Local    netip.AddrPort `json:"local"`
	What     string         `json:"what"`
	testReply
}

type testReply struct {
	By   string         `json:"by,omitempty"`
	Port uint16         `json:"port,omitempty"`
	Peer netip.AddrPort `json:"peer"`
}

// What comes of a socket.
const (
	wasAnswered = "answered"
	wasRefused  = "refused"
	wasSilent   = "silence"
)

// testAsk does what its standard input asks for, all at a time, and prints what
// came of it.
func testAsk() int {
	var asks []ask
	if err := json.NewDecoder(os.Stdin).Decode(&asks); err != nil {
		fmt.Println(err)
		return 1
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	attempts := []attempt{}
	raw := map[netip.Addr]*rawClient{}
	for _, a := range asks {
		if a.raw() && raw[a.Local] == nil {
			c, err := newRawClient(a.Local)
			if err != nil {
				fmt.Println(err)
				return 1
			}
			raw[a.Local] = c
		}
	}
	for _, a := range asks {
		for n := range a.Times {
			wg.Go(func() {
				out := attempt{Question: a.Question}
				err := a.try(raw[a.Local], a.Port+uint16(n), &out)
				switch {
				case err == nil:
					out.What = wasAnswered
				case errors.Is(err, unix.ECONNREFUSED):
					out.What = wasRefused
				case os.IsTimeout(err):
					out.What = wasSilent
				default:
					out.What = err.Error()
				}
				mu.Lock()
				defer mu.Unlock()
				attempts = append(attempts, out)
			})
		}
	}
	wg.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(attempts); err != nil {
		return 1
	}
	return 0
}

// raw reports whether it takes a raw socket.
func (a *ask) raw() bool { return a.Proto == "icmp" || a.Proto == "sctp" && !sctp.InKernel() }

func (a *ask) try(raw *rawClient, port uint16, out *attempt) error {
	end := time.Now().Add(a.Limit)
	// Known ports, and each used once: what is remembered of another table's
	// connection must not be taken for this one's, and nobody needs to answer.
	out.Local = netip.AddrPortFrom(a.Local, port)
	switch {
	case a.Proto == "sctp" && raw != nil:
		answer, err := raw.associate(a, port)
		if err != nil {
			return err
		}
		return json.Unmarshal(answer, &out.testReply)
	case a.Proto == "icmp":
		return raw.echo(a, port)
	}
	d := net.Dialer{Deadline: end, LocalAddr: net.TCPAddrFromAddrPort(out.Local)}
	if a.Proto == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(out.Local)
	}
	dial := func() (net.Conn, error) { return d.Dial(a.Proto, a.To.String()) }
	if a.Proto == "sctp" {
		dial = func() (net.Conn, error) { return dialSCTP(out.Local, a.To, end) }
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	for a.Proto == "udp" { // a datagram may get lost, and so may the error that it causes
		if c.SetDeadline(time.Now().Add(200 * time.Millisecond)); a.Once {
			c.SetDeadline(end)
		}
		if _, err = c.Write([]byte("hi")); err == nil {
			err = json.NewDecoder(c).Decode(&out.testReply)
		}
		if err == nil || a.Once || !os.IsTimeout(err) || time.Now().After(end) {
			return err
		}
	}
	c.SetDeadline(end)
	return json.NewDecoder(c).Decode(&out.testReply)
}

// namePorts are where testName answers: all endpoints' ports of the tables.
var namePorts = []uint16{53, 5353, 8080, 8081, 8443, 9090}

// testName is the process of a pod, which answers by its name whoever asks, and
// whom it saw: at some addresses, or at all that it has. A datagram's answer must
// come from where it went, which with several addresses takes a socket for each.
func testName(name string, addrs ...string) int {
	if len(addrs) == 0 {
		addrs = []string{""}
	}
	if err := nameBySCTP(name); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, a := range addrs {
		for _, port := range namePorts {
			if err := answerAs(name, a, port); err != nil {
				fmt.Println(err)
				return 1
			}
		}
	}
	select {}
}

// answerAs serves one port of testName.
func answerAs(name, addr string, port uint16) error {
	at := net.JoinHostPort(addr, fmt.Sprint(port))
	l, err1 := net.Listen("tcp", at)
	u, err2 := net.ListenPacket("udp", at)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	answer := func(peer netip.AddrPort) []byte { return nameAnswer(name, port, peer) }
	go nameToAll(l, name, port)
	go func() {
		buf := make([]byte, 1500)
		for {
			if _, from, err := u.ReadFrom(buf); err == nil {
				u.WriteTo(answer(from.(*net.UDPAddr).AddrPort()), from)
			}
		}
	}()
	return nil
}

// nameBySCTP has testName answer with SCTP, too, at all addresses.
func nameBySCTP(name string) error {
	if sctp.InKernel() {
		for _, port := range namePorts {
			l, err := sctp.Listen(port)
			if err != nil {
				return err
			}
			go nameToAll(l, name, port)
		}
		return nil
	}
	raw, err := sctp.Open()
	if err != nil {
		return err
	}
	go sctp.New(namePorts, func(port uint16, peer netip.AddrPort) []byte { return nameAnswer(name, port, peer) }).Serve(raw)
	return nil
}

// nameToAll answers all who connect to a listener.
func nameToAll(l net.Listener, name string, port uint16) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.Write(nameAnswer(name, port, c.RemoteAddr().(*net.TCPAddr).AddrPort()))
		}()
	}
}

func nameAnswer(name string, port uint16, peer netip.AddrPort) []byte {
	text, _ := json.Marshal(testReply{name, port, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())}) // it has nothing that cannot be
	return text
}
