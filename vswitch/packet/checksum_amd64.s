#include "textflag.h"

// Words are 16 bits without sign, but VPMADDWD multiplies signed ones. So 0x8000
// is taken from every word first, which is an exclusive or, pairs are added into
// 32-bit lanes by a multiplication with 1, and 0x8000 for every word is added to
// the final sum.

DATA bias<>+0x00(SB)/8, $0x8000800080008000
DATA bias<>+0x08(SB)/8, $0x8000800080008000
DATA bias<>+0x10(SB)/8, $0x8000800080008000
DATA bias<>+0x18(SB)/8, $0x8000800080008000
GLOBL bias<>(SB), RODATA|NOPTR, $32

DATA ones<>+0x00(SB)/8, $0x0001000100010001
DATA ones<>+0x08(SB)/8, $0x0001000100010001
DATA ones<>+0x10(SB)/8, $0x0001000100010001
DATA ones<>+0x18(SB)/8, $0x0001000100010001
GLOBL ones<>(SB), RODATA|NOPTR, $32

// 32 bytes of zeros, then 32 of ones: loaded at offset t, it keeps the last t
// bytes of a vector.
DATA last<>+0x00(SB)/8, $0
DATA last<>+0x08(SB)/8, $0
DATA last<>+0x10(SB)/8, $0
DATA last<>+0x18(SB)/8, $0
DATA last<>+0x20(SB)/8, $0xffffffffffffffff
DATA last<>+0x28(SB)/8, $0xffffffffffffffff
DATA last<>+0x30(SB)/8, $0xffffffffffffffff
DATA last<>+0x38(SB)/8, $0xffffffffffffffff
GLOBL last<>(SB), RODATA|NOPTR, $64

#define ADD32(off, tmp, acc) \
	VPXOR    off(SI), Y14, tmp \
	VPMADDWD tmp, Y15, tmp     \
	VPADDD   tmp, acc, acc

// func sumAVX2(b *byte, n int) uint64
TEXT ·sumAVX2(SB), NOSPLIT, $0-24
	MOVQ    b+0(FP), SI
	MOVQ    n+8(FP), CX
	VMOVDQU bias<>(SB), Y14
	VMOVDQU ones<>(SB), Y15
	VPXOR   Y0, Y0, Y0
	VPXOR   Y1, Y1, Y1
	VPXOR   Y2, Y2, Y2
	VPXOR   Y3, Y3, Y3

	// AX counts the vectors: the bias to give back.
	MOVQ CX, AX
	SHRQ $5, AX

	// The tail overlaps what the loops sum; masked bytes count as zero words.
	MOVQ     CX, DX
	ANDQ     $31, DX
	JZ       blocks
	INCQ     AX
	LEAQ     last<>(SB), DI
	VMOVDQU  -32(SI)(CX*1), Y4
	VPAND    (DI)(DX*1), Y4, Y4
	VPXOR    Y4, Y14, Y4
	VPMADDWD Y4, Y15, Y0

blocks:
	SUBQ $128, CX
	JB   vectors

loop128:
	ADD32(0, Y4, Y0)
	ADD32(32, Y5, Y1)
	ADD32(64, Y6, Y2)
	ADD32(96, Y7, Y3)
	ADDQ $128, SI
	SUBQ $128, CX
	JAE  loop128

vectors:
	ADDQ $96, CX
	JNC  done

loop32:
	ADD32(0, Y4, Y0)
	ADDQ $32, SI
	SUBQ $32, CX
	JAE  loop32

done:
	VPADDD Y1, Y0, Y0
	VPADDD Y3, Y2, Y2
	VPADDD Y2, Y0, Y0

	// Eight signed lanes to 64 bits.
	VEXTRACTI128 $1, Y0, X1
	VPMOVSXDQ    X0, Y0
	VPMOVSXDQ    X1, Y1
	VPADDQ       Y1, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ       X1, X0, X0
	VPSHUFD      $0x4e, X0, X1
	VPADDQ       X1, X0, X0
	VMOVQ        X0, BX
	VZEROUPPER
	SHLQ         $19, AX
	ADDQ         BX, AX
	MOVQ         AX, ret+16(FP)
	RET
