//go:build linux || darwin || freebsd

package nat

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vswitch/vswitch/packet"
)

// diary is what a process says it has done, in shared memory, so that it is
// killed in the middle of its work and not while it talks.
type diary struct {
	made     atomic.Uint64 // connections below this one were made
	deleting atomic.Uint64 // deletions up to this step may have begun
	deleted  atomic.Uint64 // deletions up to this step are done
}

// lives is how many steps a connection of the crash test lives.
const lives = 3000

// doomed tells at which step a connection is deleted; some never are.
func doomed(i uint64) (step uint64, ok bool) { return i + lives + i%7, i%16 != 3 }

func openDiary(path string) (*diary, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*diary)(unsafe.Pointer(unsafe.SliceData(mem))), nil
}

// A process that is killed at any moment leaves valid connections and nothing
// else: every one that it had made and not begun to delete.
func TestFileSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	rounds, all := 60, uint64(0)
	for round := range rounds {
		path := filepath.Join(dir, fmt.Sprint(round/10)) // some take over what the last one left
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"=crash:"+path)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(15+round) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		if out.Len() > 0 {
			t.Fatal(out.String())
		}
		said, err := openDiary(path + ".diary")
		if err != nil {
			t.Fatal(err)
		}
		all += checkCrash(t, path, said)
	}
	t.Logf("%d connections made in %d lives", all, rounds)
	if all < 1000*uint64(rounds) {
		t.Errorf("only %d connections were made: the processes were hardly at work", all)
	}
}

// checkCrash compares what is in the file with what the dead process said, and
// empties the file.
func checkCrash(t *testing.T, path string, said *diary) uint64 {
	tab := open(t, Config{Path: path, Max: 20_000})
	defer tab.Close()
	if _, warn := tab.Recovered(); warn != nil {
		t.Fatal(warn)
	}
	verify(t, tab)
	made, deleting, deleted := said.made.Load(), said.deleting.Load(), said.deleted.Load()
	for info := range tab.All {
		i := uint64(info.Service)
		orig, m := numbered(int(i))
		if info.Orig != orig || info.Reply != m.Reply || info.Backend != m.Backend || info.Zone != m.Zone || info.Why != m.Why || info.Via != m.Via {
			t.Fatalf("connection %d: %+v", i, info)
		}
		if step, ok := doomed(i); i > made || ok && step <= deleted {
			t.Fatalf("connection %d is there; %d were made, deleted up to step %d", i, made, deleted)
		}
		if info.State != SynSent && info.State != SynRecv && info.State != Established && i+1 < made && info.Orig.Proto == packet.ProtoTCP {
			t.Fatalf("connection %d is %v", i, info.State)
		}
	}
	for i := range made {
		orig, _ := numbered(int(i))
		step, ok := doomed(i)
		if _, _, found := tab.Lookup(&orig); !found && (!ok || step > deleting) {
			t.Fatalf("connection %d of %d is lost; deleting step %d", i, made, deleting)
		}
	}
	tab.DeleteFunc(func(*Info) bool { return true })
	said.made.Store(0)
	said.deleting.Store(0)
	said.deleted.Store(0)
	return made
}

// childCrash makes, changes and deletes connections, until it is killed.
func childCrash(path string) {
	tab, err := Open(Config{Path: path, Max: 20_000})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	said, err := openDiary(path + ".diary")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ids := map[uint64]ID{}
	steps := map[uint64][]uint64{}
	for i := uint64(0); i < 200_000; i++ {
		orig, m := numbered(int(i))
		id, err := tab.CreateMapped(&orig, &m, 1)
		if err != nil {
			fmt.Println(i, err)
			os.Exit(1)
		}
		tab.Track(id, Original, packet.TCPSyn, 1)
		tab.Track(id, Reply, packet.TCPSyn|packet.TCPAck, 1)
		tab.Touch(id, Original, 1, 1, 60)
		said.made.Store(i + 1)
		ids[i] = id
		if step, ok := doomed(i); ok {
			steps[step] = append(steps[step], i)
		}
		said.deleting.Store(i)
		for _, k := range steps[i] {
			if !tab.Delete(ids[k]) {
				fmt.Println("connection", k, "ended by itself")
				os.Exit(1)
			}
			delete(ids, k)
		}
		said.deleted.Store(i)
		delete(steps, i)
	}
	time.Sleep(time.Hour)
}
