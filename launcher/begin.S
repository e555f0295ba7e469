/* Entry from the kernel, x86-64 System V. */

    .section .text.start, "ax", @progbits
    .globl _start
    .type _start, @function
_start:
    xorl %ebp, %ebp
    movq %rsp, %rdi
    andq $-16, %rsp
    call spidl_launcher
    ud2

    .section .note.GNU-stack, "", @progbits
