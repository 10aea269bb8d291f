package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
	"github.com/rogpeppe/go-internal/testscript"

	"vswitch/vswitch/packet"
)

// TestScript runs the scripts of testdata/script. Beside what testscript has,
// they may use
//
//	exits CODE COMMAND...         like exec, with an exact exit code
//	eventually COMMAND...         exec until it succeeds, a minute at most
//	addresses NAME NAMESPACE/POD  sets $NAME4 and $NAME6 to the pod's addresses
//	checksums FILE                counts the transport checksums of a pcap file
//
// $EXAMPLES, the directory of examples, and the conditions [programs:A,B] and [subids], which are errors, and not
// false, where CI says that nothing may be missing.
func TestScript(t *testing.T) {
	// A pod finds programs where the host's root does, and so do we. Debian has
	// the servers of PostgreSQL in a place of their own.
	postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well-formed
	path := strings.Join(slices.Concat([]string{binDir, os.Getenv("PATH"), "/usr/sbin", "/sbin"}, postgres), string(os.PathListSeparator))
	t.Setenv("PATH", path)
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("/tmp", "vs")
			if err != nil {
				return err
			}
			e.Defer(func() {
				// Only a script that failed leaves its cluster up.
				down := exec.Command("vswitch", "down")
				down.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
				_ = down.Run() // mostly, there is none
				os.RemoveAll(dir)
			})
			e.Setenv("XDG_RUNTIME_DIR", dir)
			e.Setenv("HOME", dir)
			e.Setenv("PATH", path)
			e.Setenv("EXAMPLES", examples)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			missing := ""
			if list, ok := strings.CutPrefix(cond, "programs:"); ok {
				missing = missingProgram(strings.Split(list, ","))
			} else if cond == "subids" {
				missing = missingSubIDs()
			} else {
				return false, fmt.Errorf("there is no condition %q", cond)
			}
			if missing != "" && os.Getenv("CI") != "" {
				return false, fmt.Errorf("%s; .ci/run installs it", missing)
			}
			return missing == "", nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "eventually": eventually, "addresses": addresses, "checksums": checksums,
		},
	})
}

func missingProgram(programs []string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p + " is not installed"
		}
	}
	return ""
}

// missingSubIDs says why pods have one user only, from what doctor says.
func missingSubIDs() string {
	out, _ := exec.Command("vswitch", "doctor").Output() // its exit code is about all checks
	for line := range strings.Lines(string(out)) {
		if detail, ok := strings.CutPrefix(line, "FAIL  subordinate ids"); ok {
			return "subordinate ids: " + strings.TrimSpace(detail)
		}
	}
	return ""
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		code = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: eventually COMMAND...")
	}
	for deadline := time.Now().Add(time.Minute); ; {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func addresses(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: addresses NAME NAMESPACE/POD")
	}
	namespace, name, _ := strings.Cut(args[1], "/")
	ts.Check(ts.Exec("vswitch", "get", "pods", "-n", namespace, name, "-o", "json"))
	var pod struct {
		Status struct{ PodIPs []struct{ IP string } }
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &pod))
	for _, a := range pod.Status.PodIPs {
		family := "4"
		if strings.Contains(a.IP, ":") {
			family = "6"
		}
		ts.Setenv(args[0]+family, a.IP)
	}
}

// checksums tells right checksums from those that are still to be made, which
// hold the sum of the pseudo header, as between a kernel and its devices, and
// from wrong ones. Tcpdump says "incorrect" of both of the latter.
func checksums(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: checksums FILE")
	}
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	ts.Check(err)
	var right, unfinished, fragments, wrong int
	b := packet.NewBatch()
	for {
		data, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		b.Reset()
		p := b.Append(data)
		b.Parse(p)
		switch {
		case p.Class == packet.ARP || p.Class == packet.Unknown:
		case p.Class == packet.Fragment:
			fragments++
		case b.VerifyTransport(p):
			right++
		case isUnfinished(b.Frame(p)[p.L4:], &p.Tuple):
			unfinished++
		default:
			wrong++
			ts.Logf("wrong: %v, %x", p.Tuple, data[:min(len(data), 80)])
		}
	}
	fmt.Fprintf(ts.Stdout(), "right %d\nunfinished %d\nfragments %d\nwrong %d\n", right, unfinished, fragments, wrong)
}

func isUnfinished(l4 []byte, t *packet.Tuple) bool {
	at := map[uint8]int{packet.ProtoTCP: 16, packet.ProtoUDP: 6}[t.Proto]
	return at > 0 && len(l4) > at+2 &&
		binary.BigEndian.Uint16(l4[at:]) == packet.Fold(packet.PseudoSum(&t.Src, &t.Dst, t.Proto, len(l4)))
}

// TestChecksumsAreTold is the test of the command checksums.
func TestChecksumsAreTold(t *testing.T) {
	src, dst := packet.Addr{10: 0xff, 11: 0xff, 12: 10, 15: 1}, packet.Addr{10: 0xff, 11: 0xff, 12: 10, 15: 2}
	tuple := packet.Tuple{Src: src, Dst: dst, Proto: packet.ProtoUDP}
	l4 := []byte{0, 1, 0, 2, 0, 12, 0, 0, 'd', 'a', 't', 'a'}
	binary.BigEndian.PutUint16(l4[6:], packet.Fold(packet.PseudoSum(&src, &dst, packet.ProtoUDP, len(l4))))
	if !isUnfinished(l4, &tuple) {
		t.Error("the sum of the pseudo header is not known as such")
	}
	l4[6]++
	if isUnfinished(l4, &tuple) {
		t.Error("a wrong sum is taken for one that is to be made")
	}
}
