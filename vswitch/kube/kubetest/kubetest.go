// Package kubetest finds what Kubernetes' own parts are expected to do: files
// of facts that are not part of the project, which tests hold the product
// against where they are present.
package kubetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Cases reads a file of expected behaviour into v. It is looked for in
// shared/cases beside the module's root directory, or in the directory that
// VSWITCH_CASES names. Without it the test is skipped, unless that variable is set.
func Cases(t testing.TB, name string, v any) {
	t.Helper()
	dir := os.Getenv("VSWITCH_CASES")
	if dir == "" {
		dir = filepath.Join(filepath.Dir(root(t)), "shared", "cases")
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) && os.Getenv("VSWITCH_CASES") == "" {
		t.Skipf("there is no %s in %s; VSWITCH_CASES may name another directory", name, dir)
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// root returns the module's root directory.
func root(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod here or above")
		}
		dir = up
	}
}
