//go:build !unix

package control

// syncDir does nothing: directories cannot be synchronised here.
func syncDir(string) error { return nil }
