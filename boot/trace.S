/* Where the thunks of logged calls lead: r11 is the struct call, all else as the caller left it.
   The frame is an ordinary one with unwind information, so exceptions, longjmp, cancellation and
   debuggers find the caller behind it. */
#include "trace.h"

#define REGISTER(n) (FRAME_SAVED + 8 * (n) - FRAME_SIZE)(%rbp)

.macro restore
    movq REGISTER(0), %rdi
    movq REGISTER(1), %rsi
    movq REGISTER(2), %rdx
    movq REGISTER(3), %rcx
    movq REGISTER(4), %r8
    movq REGISTER(5), %r9
    movq REGISTER(6), %rax      /* al counts vector registers for variadic functions */
    movq REGISTER(7), %r10
.endm

    .text
    .globl spidl_trace_log
    .type spidl_trace_log, @function
spidl_trace_log:
    .cfi_startproc
    endbr64
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    subq $FRAME_SIZE, %rsp
    movq %rdi, REGISTER(0)
    movq %rsi, REGISTER(1)
    movq %rdx, REGISTER(2)
    movq %rcx, REGISTER(3)
    movq %r8, REGISTER(4)
    movq %r9, REGISTER(5)
    movq %rax, REGISTER(6)
    movq %r10, REGISTER(7)
    movq %r11, REGISTER(8)
    testb $TRACE_FLOATS, CALL_FLAGS(%r11)
    jz 1f
    movq %xmm0, REGISTER(9)     /* the C below uses no vector register, so none is saved */
    movq %xmm1, REGISTER(10)
    movq %xmm2, REGISTER(11)
    movq %xmm3, REGISTER(12)
    movq %xmm4, REGISTER(13)
    movq %xmm5, REGISTER(14)
    movq %xmm6, REGISTER(15)
    movq %xmm7, REGISTER(16)
1:  movq %rsp, %rdi
    call trace_called
    movq REGISTER(8), %r11
    testb $TRACE_RETURNS, CALL_FLAGS(%r11)
    jz 3f
    movzbl CALL_STACK(%r11), %ecx
    leal 1(%rcx), %eax          /* its arguments on the stack once more, which stays aligned */
    andl $-2, %eax
    shll $3, %eax
    subq %rax, %rsp
    movq %rsp, %rdi
    leaq 16(%rbp), %rsi
    rep movsq
    restore
    call *(%r11)
    leaq -FRAME_SIZE(%rbp), %rsp
    movq %rax, REGISTER(6)
    movq %rdx, REGISTER(2)
    movq REGISTER(8), %r11
    testb $TRACE_FLOATS, CALL_FLAGS(%r11)
    jz 2f
    movq %xmm0, REGISTER(9)
2:  movq %rsp, %rdi
    call trace_returned
    movq REGISTER(6), %rax
    movq REGISTER(2), %rdx
    leave
    .cfi_remember_state
    .cfi_def_cfa %rsp, 8
    .cfi_restore %rbp
    ret
    .cfi_restore_state
3:  restore
    leave
    .cfi_def_cfa %rsp, 8
    .cfi_restore %rbp
    jmp *(%r11)
    .cfi_endproc
    .size spidl_trace_log, . - spidl_trace_log

    .section .note.GNU-stack, "", @progbits
