#include "textflag.h"

// func prefetch(addr uintptr)
TEXT ·prefetch(SB), NOSPLIT, $0-8
	MOVQ addr+0(FP), AX
	PREFETCHT0 (AX)
	RET

// func prefetchSlots(slots *uint32, mask uint32, hash *uint64, stride uintptr, n int)
TEXT ·prefetchSlots(SB), NOSPLIT, $0-40
	MOVQ slots+0(FP), DI
	MOVL mask+8(FP), DX
	MOVQ hash+16(FP), SI
	MOVQ stride+24(FP), BX
	MOVQ n+32(FP), CX
	JMP  test
next:
	MOVL (SI), AX
	ANDL DX, AX
	PREFETCHT0 (DI)(AX*4)
	ADDQ BX, SI
	DECQ CX
test:
	TESTQ CX, CX
	JNE  next
	RET

// func prefetchLines(base uintptr, entries *[64]uint32, n int)
TEXT ·prefetchLines(SB), NOSPLIT, $0-24
	MOVQ base+0(FP), DI
	MOVQ entries+8(FP), SI
	MOVQ n+16(FP), CX
	LEAQ (SI)(CX*4), CX
	JMP  test
next:
	MOVL (SI), AX
	SHLQ $6, AX
	PREFETCHT0 -64(DI)(AX*1)
	ADDQ $4, SI
test:
	CMPQ SI, CX
	JB   next
	RET
