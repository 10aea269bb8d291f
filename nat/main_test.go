package nat

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"vswitch/vswitch/packet"
)

// TestMain also is what the tests run in a process of their own: named by this
// variable, with its argument behind a colon.
const childVar = "NAT_TEST_CHILD"

func TestMain(m *testing.M) {
	switch child := os.Getenv(childVar); {
	case child == "":
		heapOnly = raceEnabled
		os.Exit(m.Run())
	case len(child) > 7 && child[:7] == "memory:":
		childMemory(child[7:])
	case len(child) > 6 && child[:6] == "crash:":
		childCrash(child[6:])
	default:
		fmt.Fprintln(os.Stderr, "unknown child", child)
		os.Exit(1)
	}
}

// key returns the tuple number i: all differ, families and protocols alternate.
func key(i int) packet.Tuple {
	t := packet.Tuple{SrcPort: uint16(i), DstPort: 80, Proto: packet.ProtoTCP}
	if i&1 == 0 {
		t.Src = packet.Addr{10: 0xff, 11: 0xff, 12: 10}
		t.Dst = packet.Addr{10: 0xff, 11: 0xff, 12: 10, 15: 1}
	} else {
		t.Src, t.Dst = packet.Addr{0xfd}, packet.Addr{0xfd, 15: 1}
	}
	binary.BigEndian.PutUint16(t.Src[13:], uint16(i>>8))
	t.Src[15] = byte(i >> 24)
	if i&2 != 0 {
		t.Proto = packet.ProtoUDP
	}
	return t
}

// v4 returns an IPv4 tuple.
func v4(proto uint8, src [4]byte, sport uint16, dst [4]byte, dport uint16) packet.Tuple {
	return packet.Tuple{
		Src: addr4(src), Dst: addr4(dst), SrcPort: sport, DstPort: dport, Proto: proto,
	}
}

func addr4(a [4]byte) packet.Addr {
	return packet.Addr{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

func open(t testing.TB, cfg Config) *Table {
	t.Helper()
	tab, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	return tab
}
