package gossip

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	keyA = bytes.Repeat([]byte{0xa}, 32)
	keyB = bytes.Repeat([]byte{0xb}, 16)
	keyC = bytes.Repeat([]byte{0xc}, 24)
)

func withKeys(keys ...[]byte) func(*Config) {
	return func(cfg *Config) { cfg.Keys = keys }
}

// soon is a context for a keyring command.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A rotation loses no member and no state; every step is refused that would
// cut a node off.
func TestB34Rotation(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		dir := t.TempDir()
		c.edit = append(c.edit, withKeys(keyA), func(cfg *Config) { cfg.KeyFile = filepath.Join(dir, cfg.Name) })
		gs := c.startN(4)
		ctx := soon(t)
		if _, err := gs[0].UseKey(ctx, Fingerprint(keyB)); !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("using a key that nobody has: %v", err)
		}
		if _, err := gs[0].InstallKey(ctx, []byte("short")); err == nil {
			t.Fatal("a key of 5 bytes was installed")
		}
		// Install on three of four nodes, as if the fourth had missed it.
		for _, g := range gs[:3] {
			must0(t, g.ring.do(opInstall, string(keyB)))
		}
		if _, err := gs[0].UseKey(ctx, Fingerprint(keyB)); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), "n4") {
			t.Fatalf("using a key that n4 does not have: %v", err)
		}
		steps := []struct {
			what string
			do   func() ([]KeyAnswer, error)
			want []string
		}{
			{"install", func() ([]KeyAnswer, error) { return gs[2].InstallKey(soon(t), keyB) }, []string{Fingerprint(keyA), Fingerprint(keyB)}},
			{"use", func() ([]KeyAnswer, error) { return gs[1].UseKey(soon(t), Fingerprint(keyB)) }, []string{Fingerprint(keyB), Fingerprint(keyA)}},
			{"remove", func() ([]KeyAnswer, error) { return gs[3].RemoveKey(soon(t), Fingerprint(keyA)) }, []string{Fingerprint(keyB)}},
		}
		for i, s := range steps {
			as, err := s.do()
			if err != nil || len(as) != 4 {
				t.Fatalf("%s: %v %v", s.what, as, err)
			}
			for _, a := range as {
				if !slices.Equal(a.Keys, s.want) || a.Err != "" {
					t.Errorf("%s: %+v, want %v", s.what, a, s.want)
				}
			}
			must0(t, gs[i].SetPods(pods(i+1, 3+i)))
			c.never(3*time.Second, "a member was lost in "+s.what, func() bool {
				return slices.ContainsFunc(gs, func(g *Gossip) bool { s := g.Snapshot(); return s.Alive() != 4 })
			})
			c.agree(0, gs...)
		}
		if _, err := gs[0].RemoveKey(soon(t), Fingerprint(keyB)); !errors.Is(err, ErrPrimaryKey) {
			t.Errorf("the primary key was removed: %v", err)
		}
		if _, err := gs[0].RemoveKey(soon(t), Fingerprint(keyC)); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("a key that nobody has was removed: %v", err)
		}
		for _, g := range gs {
			if n := g.Counters().BadKey; n != 0 {
				t.Errorf("%s: %d messages could not be decrypted", g.cfg.Name, n)
			}
			data, err := os.ReadFile(g.cfg.KeyFile)
			if want := base64.StdEncoding.EncodeToString(keyB) + "\n"; err != nil || string(data) != want {
				t.Errorf("key file of %s: %q %v", g.cfg.Name, data, err)
			}
		}
		// A node that restarts with its file and its old configuration is in.
		c.crash("n4")
		gs[3] = c.start("n4", 4)
		c.agree(5*time.Second, gs...)
	})
}

// RotateKey leaves one key everywhere and loses nothing on the way, from
// whatever an interrupted rotation left.
func TestB34RotateAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name  string
		begin func(t *testing.T, gs []*Gossip)
	}{
		{"one key", func(*testing.T, []*Gossip) {}},
		{"installed on some", func(t *testing.T, gs []*Gossip) {
			must0(t, gs[1].ring.do(opInstall, string(keyC)))
		}},
		{"used by some", func(t *testing.T, gs []*Gossip) {
			_, err := gs[0].InstallKey(soon(t), keyC)
			must0(t, err)
			must0(t, gs[2].ring.do(opUse, Fingerprint(keyC)))
		}},
		{"begun with the same key", func(t *testing.T, gs []*Gossip) {
			_, err := gs[0].InstallKey(soon(t), keyB)
			must0(t, err)
			must0(t, gs[1].ring.do(opUse, Fingerprint(keyB)))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				c.edit = append(c.edit, withKeys(keyA))
				c.net.SetLink(time.Millisecond, 40*time.Millisecond, 0)
				gs := c.startN(4)
				tc.begin(t, gs)
				as, err := gs[3].RotateKey(soon(t), keyB, false)
				must0(t, err)
				for _, a := range as {
					if !slices.Equal(a.Keys, []string{Fingerprint(keyB)}) {
						t.Errorf("%s has %v", a.Node, a.Keys)
					}
				}
				c.never(5*time.Second, "a member was lost", func() bool {
					return slices.ContainsFunc(gs, func(g *Gossip) bool { return g.Snapshot().Alive() != 4 })
				})
				for _, g := range gs {
					if n := g.Counters().BadKey; n != 0 {
						t.Errorf("%s: %d messages could not be decrypted", g.cfg.Name, n)
					}
				}
			})
		})
	}
}

// Of rotations that begin at once, one is done and the others are refused, and
// the next one waits for nobody, unless the last one died in the middle.
func TestOneRotationAtATime(t *testing.T) {
	for _, at := range [][]int{{0, 3}, {3, 0}, {2, 3}, {1, 1}, {0, 1, 2, 3}} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			simulate(t, func(t *testing.T, c *sim) {
				c.edit = append(c.edit, withKeys(keyA))
				c.net.SetLink(time.Millisecond, 40*time.Millisecond, 0)
				gs := c.startN(4)
				errs := make([]error, len(at))
				keys := make([][]byte, len(at))
				var wg sync.WaitGroup
				for i, n := range at {
					keys[i] = NewKey()
					wg.Go(func() { _, errs[i] = gs[n].RotateKey(soon(t), keys[i], false) })
				}
				wg.Wait()
				done := -1
				for i, err := range errs {
					switch {
					case err == nil && done < 0:
						done = i
					case !errors.Is(err, ErrRotating) || strings.Contains(err.Error(), "\n"):
						t.Errorf("rotation %d of %v: %v, rotation %d was done", i, at, err, done)
					}
				}
				if done < 0 {
					t.Fatal("no rotation was done")
				}
				for _, g := range gs {
					if got := g.ring.fingerprints(); !slices.Equal(got, []string{Fingerprint(keys[done])}) {
						t.Errorf("%s has %v", g.cfg.Name, got)
					}
				}
				_, err := gs[1].RotateKey(soon(t), keyB, false)
				must0(t, err)
				must0(t, gs[2].ring.do(opHold, "n9"))
				if _, err := gs[0].RotateKey(soon(t), keyC, false); !errors.Is(err, ErrRotating) {
					t.Errorf("a rotation while n9 holds n3: %v", err)
				}
				time.Sleep(holdFor)
				_, err = gs[0].RotateKey(soon(t), keyC, false)
				must0(t, err)
			})
		})
	}
}

// A rotation that a node would miss is refused, and one whose steps are not
// done everywhere stops where all nodes still understand each other.
func TestB34RotateWithoutANode(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		c.edit = append(c.edit, withKeys(keyA))
		gs := c.startN(4)
		c.net.Partition([]netip.AddrPort{at(3)}) // and nobody knows yet
		_, err := gs[0].RotateKey(soon(t), keyB, true)
		if err == nil || !strings.Contains(err.Error(), "n3: no answer") {
			t.Fatalf("a rotation without n3: %v", err)
		}
		c.within(10*time.Second, "n3 is gone", func() bool { return gs[0].Snapshot().Node("n3").State == Failed })
		if _, err := gs[0].RotateKey(soon(t), keyB, false); !errors.Is(err, ErrNodeDown) || !strings.Contains(err.Error(), "n3") {
			t.Fatalf("a rotation while n3 is down: %v", err)
		}
		c.net.Partition()
		c.agree(10*time.Second, gs...)
		time.Sleep(10 * time.Second) // old alarms pass by
		as, err := gs[0].RotateKey(soon(t), keyB, false)
		if must0(t, err); len(as) != 4 {
			t.Errorf("answers of %d nodes", len(as))
		}
		// One that goes down on the way stops it.
		time.AfterFunc(100*time.Millisecond, func() { c.net.Partition([]netip.AddrPort{at(2)}) })
		_, err = gs[0].RotateKey(soon(t), keyC, false)
		if err == nil || !strings.Contains(err.Error(), "n2") {
			t.Errorf("a rotation that n2 did not end: %v", err)
		}
		c.net.Partition()
		c.agree(10*time.Second, gs...)
		time.Sleep(10 * time.Second)
		_, err = gs[0].RotateKey(soon(t), keyC, false)
		must0(t, err)
		c.crash("n4")
		c.within(10*time.Second, "n4 is gone", func() bool { return agreed(gs[:3]) })
		if as, err = gs[1].RotateKey(soon(t), keyA, true); err != nil || len(as) != 3 {
			t.Errorf("a forced rotation: %v %v", as, err)
		}
	})
}

// A node that was down in a rotation is refused, both sides say so once a
// minute, and it is in once it has the key.
func TestB34MissedRotation(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		c.edit = append(c.edit, withKeys(keyA))
		gs := c.startN(3)
		c.crash("n3")
		c.within(5*time.Second, "n3 is gone", func() bool { return agreed(gs[:2]) })
		ctx := soon(t)
		for _, f := range []func() ([]KeyAnswer, error){
			func() ([]KeyAnswer, error) { return gs[0].InstallKey(ctx, keyB) },
			func() ([]KeyAnswer, error) { return gs[0].UseKey(ctx, Fingerprint(keyB)) },
			func() ([]KeyAnswer, error) { return gs[0].RemoveKey(ctx, Fingerprint(keyA)) },
		} {
			if as, err := f(); err != nil || len(as) != 2 {
				t.Fatal(as, err)
			}
		}
		gs[2] = c.start("n3", 3)
		must0(t, gs[2].SetPods(pods(3, 2)))
		c.never(150*time.Second, "a node with an old key is taken in", func() bool {
			a, b := gs[0].Snapshot(), gs[2].Snapshot()
			return a.Alive() != 2 || b.Alive() != 1 || len(b.Nodes) > 0
		})
		if a, b := gs[0].Counters().BadKey, gs[2].Counters().BadKey; a < 10 {
			t.Errorf("counted %d and %d", a, b)
		}
		told := func(g *Gossip, words string) bool {
			return slices.ContainsFunc(g.Snapshot().Problems, func(p string) bool { return strings.Contains(p, words) })
		}
		if !told(gs[0], "unknown key from "+at(3).Addr().String()) || !told(gs[2], "this node is alone") {
			t.Errorf("the problems name nobody:\n%s", c.dump())
		}
		if n := c.log.count(`"dropped traffic encrypted with an unknown key"`); n < 2 || n > 8 {
			t.Errorf("the unknown key was logged %d times in 150 s", n)
		}
		if n := c.log.count("this node is alone"); n < 2 || n > 4 {
			t.Errorf("being alone was logged %d times in 150 s", n)
		}
		_, err := gs[2].InstallKey(soon(t), keyB)
		must0(t, err)
		_, err = gs[2].UseKey(soon(t), Fingerprint(keyB))
		must0(t, err)
		t.Logf("in after %s", c.agree(5*time.Second, gs...))
		c.within(2*quiet, "the problems are over", func() bool {
			return !slices.ContainsFunc(gs, func(g *Gossip) bool { return len(g.Snapshot().Problems) > 0 })
		})
	})
}

// Without a key nobody gets in or is understood.
func TestB34PlainAgainstEncrypted(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		g := c.start("sealed", 1, withKeys(keyA))
		h := c.start("plain", 2)
		c.never(10*time.Second, "they met", func() bool { return len(g.Snapshot().Nodes)+len(h.Snapshot().Nodes) > 0 })
		if g.Counters().BadKey == 0 {
			t.Error("unencrypted traffic was not counted")
		}
		if _, err := h.InstallKey(soon(t), keyA); !errors.Is(err, ErrNoKeys) {
			t.Errorf("a key was installed without encryption: %v", err)
		}
	})
}

func TestKeysNamesWhoDoesNotAnswer(t *testing.T) {
	simulate(t, func(t *testing.T, c *sim) {
		c.edit = append(c.edit, withKeys(keyA, keyC))
		gs := c.startN(3)
		as, err := gs[0].Keys(soon(t))
		if err != nil || len(as) != 3 {
			t.Fatal(as, err)
		}
		// n3 does not know n1 yet, and cannot answer before it does.
		gs[2].mu.Lock()
		unknown := gs[2].members["n1"]
		delete(gs[2].members, "n1")
		gs[2].mu.Unlock()
		time.AfterFunc(time.Second, func() {
			gs[2].mu.Lock()
			defer gs[2].mu.Unlock()
			gs[2].members["n1"] = unknown
		})
		if as, err := gs[0].Keys(soon(t)); err != nil || len(as) != 3 {
			t.Errorf("%v %v", as, err)
		}
		c.net.Partition([]netip.AddrPort{at(3)})
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		as, err = gs[0].Keys(ctx)
		if err == nil || !strings.Contains(err.Error(), "n3: no answer") || as[2].Err == "" || as[1].Err != "" {
			t.Errorf("%v %v", as, err)
		}
	})
}

// Keys are removed while packets are decrypted: the slice that a reader holds
// must not change. The race detector is the judge.
func TestRemoveKeyWhileReading(t *testing.T) {
	k, err := openKeyring([][]byte{keyA, keyB, keyC}, "")
	must0(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				seen := 0
				for _, key := range k.ring.GetKeys() {
					seen += len(key)
				}
				if seen < 32+16 { // the primary key and one other at least
					panic("a key that stays was missing")
				}
			}
		})
	}
	for range 2000 {
		must0(t, k.do(opRemove, Fingerprint(keyB)))
		must0(t, k.do(opInstall, string(keyB)))
		must0(t, k.do(opRemove, Fingerprint(keyC)))
		must0(t, k.do(opInstall, string(keyC)))
		must0(t, k.do(opRemove, Fingerprint(keyB)))
		must0(t, k.do(opInstall, string(keyB)))
	}
	close(stop)
	wg.Wait()
	if got := k.fingerprints(); len(got) != 3 || got[0] != Fingerprint(keyA) {
		t.Error(got)
	}
	if err := k.do(opRemove, Fingerprint(keyA)); !errors.Is(err, ErrPrimaryKey) {
		t.Error(err)
	}
	if err := k.do(opUse, "nobody has this"); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "keys")
	b64 := base64.StdEncoding.EncodeToString
	k, err := openKeyring([][]byte{keyA}, file)
	must0(t, err)
	if st, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st.Mode(), err)
	}
	must0(t, k.do(opInstall, string(keyB)))
	must0(t, k.do(opUse, Fingerprint(keyB)))
	again, err := openKeyring([][]byte{keyC}, file)
	must0(t, err)
	if got := again.fingerprints(); !slices.Equal(got, []string{Fingerprint(keyB), Fingerprint(keyA)}) {
		t.Errorf("the rotation is undone by a restart: %v", got)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"comment and blank lines", "# keys\n\n" + b64(keyC) + "\n", ""},
		{"not base64", b64(keyC) + "\n%%%\n", "line 2: not base64"},
		{"short", b64([]byte("short")) + "\n", "line 1: key of 5 bytes"},
		{"empty", "\n", "holds no key"},
	} {
		must0(t, os.WriteFile(file, []byte(tc.text), 0o600))
		_, err := openKeyring(nil, file)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if k, err := openKeyring(nil, ""); k != nil || err != nil {
		t.Errorf("no keys at all: %v %v", k, err)
	}
	if _, err := openKeyring(nil, filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a key file that is not there: %v", err)
	}
	made := filepath.Join(dir, "made")
	key, err := CreateKeyFile(made)
	must0(t, err)
	if k, err := openKeyring(nil, made); err != nil || k.fingerprints()[0] != Fingerprint(key) {
		t.Errorf("a key that was made is not read back: %v", err)
	}
	if st, err := os.Stat(made); err != nil || runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if _, err := CreateKeyFile(made); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key was overwritten: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".keys-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
