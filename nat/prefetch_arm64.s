#include "textflag.h"

// func prefetch(addr uintptr)
TEXT ·prefetch(SB), NOSPLIT, $0-8
	MOVD addr+0(FP), R0
	PRFM (R0), PLDL1KEEP
	RET

// func prefetchSlots(slots *uint32, mask uint32, hash *uint64, stride uintptr, n int)
TEXT ·prefetchSlots(SB), NOSPLIT, $0-40
	MOVD  slots+0(FP), R0
	MOVWU mask+8(FP), R1
	MOVD  hash+16(FP), R2
	MOVD  stride+24(FP), R3
	MOVD  n+32(FP), R4
	B     test
next:
	MOVWU (R2), R5
	AND   R1, R5
	ADD   R5<<2, R0, R5
	PRFM  (R5), PLDL1KEEP
	ADD   R3, R2
	SUB   $1, R4
test:
	CBNZ R4, next
	RET

// func prefetchLines(base uintptr, entries *[64]uint32, n int)
TEXT ·prefetchLines(SB), NOSPLIT, $0-24
	MOVD base+0(FP), R0
	MOVD entries+8(FP), R1
	MOVD n+16(FP), R2
	SUB  $64, R0
	ADD  R2<<2, R1, R2
	B    test
next:
	MOVWU.P 4(R1), R3
	ADD     R3<<6, R0, R3
	PRFM    (R3), PLDL1KEEP
test:
	CMP R2, R1
	BLO next
	RET
