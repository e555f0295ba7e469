/* Entry from the kernel and the final jump, x86-64 System V. */

    .section .text.start, "ax", @progbits
    .globl _start
    .type _start, @function
_start:
    xorl %ebp, %ebp
    movq %rsp, %rdi
    leaq spidl_table(%rip), %rsi
    leaq spidl_code(%rip), %rdx
    andq $-16, %rsp
    call spidl_boot
    ud2

/* void spidl_jump(uint64_t *stack, uint64_t target, uint64_t rax, uint64_t rdx)
   The target lies in the red zone below the kernel's stack pointer until the jump has read it. */
    .globl spidl_jump
    .type spidl_jump, @function
spidl_jump:
    movq %rdi, %rsp
    movq %rsi, -8(%rsp)
    movq %rdx, %rax
    movq %rcx, %rdx
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %ebp, %ebp
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    xorl %r15d, %r15d
    cld
    jmp *-8(%rsp)

/* Where the program is entered behind its libraries' constructors, if a filter waits for that: the
   kernel's stack, and rdx for the program. */
    .globl spidl_late
    .type spidl_late, @function
spidl_late:
    pushq %rdx
    subq $8, %rsp
    leaq spidl_table(%rip), %rdi
    call spidl_enter
    addq $8, %rsp
    popq %rdx
    jmp *%rax

/* The handler of SIGSYS. */
    .globl spidl_sigsys
    .type spidl_sigsys, @function
spidl_sigsys:
    leaq spidl_table(%rip), %rcx
    jmp spidl_stopped

    .section .note.GNU-stack, "", @progbits
