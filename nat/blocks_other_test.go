//go:build !unix

package nat

func blocks(string) (int64, bool) { return 0, false }
