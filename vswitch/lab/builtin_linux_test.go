package lab

import "testing"

func TestBuiltInSaysItsPorts(t *testing.T) {
	for _, tt := range []struct {
		s    builtIn
		want string
	}{
		{builtIn{}, "no ports"},
		{builtIn{TCP: []uint16{80, 443}, SCTP: []uint16{9}}, "TCP 80 443, SCTP 9"},
		{builtIn{UDP: []uint16{53}}, "UDP 53"},
	} {
		if got := tt.s.ports(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
