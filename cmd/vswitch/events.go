package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"vswitch/vswitch/agent"
)

// eventPrinter writes events as they come, aligned as well as what has come
// before allows.
type eventPrinter struct {
	out, errOut io.Writer
	format      string
	color       bool
	widths      []int
}

func newEventPrinter(out, errOut io.Writer, format string) *eventPrinter {
	p := &eventPrinter{out: out, errOut: errOut, format: format, color: isTerminal(out)}
	p.widths = make([]int, len(eventHeader))
	copy(p.widths, []int{len("15:04:05.000"), 5, 9, 24, 24, 4, 14, 28, 14, 20, 20})
	return p
}

// isTerminal reports whether colors may be written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}

var eventHeader = []string{"TIME", "NODE", "VERDICT", "FROM", "TO", "PROTO", "REASON", "POLICY", "SERVICE", "SOURCE", "DESTINATION", "FLAGS", "WHY"}

// Columns of eventHeader.
const (
	eventVerdictColumn = 2
	eventWide          = 8 // from here on, they are for -o wide
)

// head writes the header.
func (p *eventPrinter) head() {
	if p.format != "json" {
		p.line(eventHeader, "")
	}
}

// event writes an event.
func (p *eventPrinter) event(e *agent.Event) error {
	if p.format == "json" {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.out, "%s\n", data)
		return err
	}
	color := map[agent.EventVerdict]string{agent.EventForwarded: "32", agent.EventDropped: "31", agent.EventRejected: "33"}[e.Verdict]
	by := e.Policy
	if p.format != "wide" {
		by = firstPolicy(by)
	}
	return p.line([]string{e.Time.Local().Format("15:04:05.000"), e.Node, string(e.Verdict), senderOf(e), receiverOf(e), e.Proto, e.Reason, by,
		e.Service, endpoint(e.Source), endpoint(e.Destination), e.TCPFlags, e.Why}, color)
}

// firstPolicy shortens a list of policies that decided together: "NetworkPolicy x/a
// +2". -o wide names them all.
func firstPolicy(list string) string {
	names := strings.Split(list, ", ")
	more := len(names) - 1
	if n, ok := strings.CutSuffix(names[more], " others"); ok {
		others, _ := strconv.Atoi(n)
		more += others - 1
	}
	if more == 0 {
		return list
	}
	return fmt.Sprintf("%s +%d", names[0], more)
}

// senderOf names who sent a packet and from which port. Of one that lies, it says
// as whom.
func senderOf(e *agent.Event) string {
	if e.Reason == "spoofed" && e.From != "" && e.Source.IsValid() {
		return fmt.Sprintf("%s as %s", e.From, e.Source.Addr())
	}
	return withPort(e.From, e.Source)
}

// receiverOf names whom a packet is for: behind a service, the pod that it chose;
// if it chose none, the service.
func receiverOf(e *agent.Event) string {
	if e.Backend.IsValid() {
		return withPort(e.To, e.Backend)
	}
	if e.Service != "" {
		name, _, _ := strings.Cut(e.Service, ":")
		return withPort("svc/"+name, e.Destination)
	}
	return withPort(e.To, e.Destination)
}

// withPort writes NAME:PORT, or the address if it has no name.
func withPort(name string, a netip.AddrPort) string {
	switch {
	case name == "":
		return endpoint(a)
	case a.Port() == 0:
		return name
	}
	// Names have no colons; JoinHostPort leaves them as they are.
	return net.JoinHostPort(name, strconv.Itoa(int(a.Port())))
}

func (p *eventPrinter) line(cells []string, color string) error {
	if p.format != "wide" {
		cells = cells[:eventWide]
	}
	var line strings.Builder
	for i, cell := range cells {
		cell = cmp.Or(cell, "-")
		width := utf8.RuneCountInString(cell)
		p.widths[i] = max(p.widths[i], width)
		pad := strings.Repeat(" ", p.widths[i]-width+2)
		if i == len(cells)-1 {
			pad = ""
		}
		if i == eventVerdictColumn && p.color && color != "" {
			cell = "\x1b[" + color + "m" + cell + "\x1b[0m"
		}
		line.WriteString(cell + pad)
	}
	_, err := fmt.Fprintln(p.out, line.String())
	return err
}

// suppressed says that there were more events than could be told.
func (p *eventPrinter) suppressed(e *agent.Event) {
	if e.Suppressed > 0 {
		fmt.Fprintf(p.errOut, "%s events suppressed on %s\n", thousands(e.Suppressed), e.Node)
	}
}

// thousands writes a number with commas.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
