/* Shims for GOT slots of functions that are asked about /proc/self/exe.
   The image's thunks enter them with r10 = the real function and r11 = the program's path; every
   other register is as the caller left it (al counts vector registers for variadic open). */

    .text

/* ZF is set if rax points to "/proc/self/exe". Changes rax and flags only. */
is_exe:
    testq %rax, %rax
    jz 3f
    pushq %rcx
    pushq %rsi
    leaq exe_path(%rip), %rsi
1:  movb (%rax), %cl
    cmpb (%rsi), %cl
    jne 2f
    incq %rax
    incq %rsi
    testb %cl, %cl
    jnz 1b
2:  popq %rsi
    popq %rcx
    ret
3:  incl %eax                   /* a null path: clears ZF */
    ret

/* ZF is set if rax points to "/proc/self/exe", or to "/proc/N/exe" where N is this process, which
   realpath makes of it. Changes rax and flags only. */
is_own_exe:
    pushq %rax
    call is_exe
    popq %rax
    je 6f
    testq %rax, %rax
    jz 3b
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r11
    leaq exe_path(%rip), %rsi
    xorl %ecx, %ecx
    xorl %edi, %edi
1:  movb (%rax,%rcx), %dl       /* "/proc/" */
    cmpb (%rsi,%rcx), %dl
    jne 5f
    incl %ecx
    cmpl $6, %ecx
    jb 1b
    addq %rcx, %rax
2:  movzbl (%rax), %edx         /* N */
    subl $'0', %edx
    cmpl $9, %edx
    ja 4f
    imull $10, %edi
    addl %edx, %edi
    incq %rax
    jmp 2b
4:  movb (%rax), %dl            /* "/exe" */
    cmpb 10(%rsi), %dl
    jne 5f
    incq %rax
    incq %rsi
    testb %dl, %dl
    jnz 4b
    movl $39, %eax              /* getpid; changes rcx and r11 */
    syscall
    cmpl %edi, %eax
5:  popq %r11
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
6:  ret

.macro entries names:vararg
    .irp name, \names
    .globl shim_\name
    .type shim_\name, @function
shim_\name:
    .endr
.endm

/* The path is the first argument. */
entries open, open64, __open_2, __open64_2, fopen, fopen64, stat, stat64, access, euidaccess, \
        eaccess, realpath, __realpath_chk, canonicalize_file_name
    pushq %rax
    movq %rdi, %rax
    call is_exe
    popq %rax
    cmoveq %r11, %rdi
    jmp *%r10

/* The path is the second argument. */
entries openat, openat64, __openat_2, __openat64_2, faccessat, __xstat, __xstat64
    pushq %rax
    movq %rsi, %rax
    call is_exe
    popq %rax
    cmoveq %r11, %rsi
    jmp *%r10

/* fstatat(directory, path, buffer, flags): AT_SYMLINK_NOFOLLOW asks about the link itself. */
entries fstatat, fstatat64
    testl $0x100, %ecx
    jnz 1f
    movq %rsi, %rax
    call is_exe
    cmoveq %r11, %rsi
1:  jmp *%r10

/* __readlink_chk(path, buffer, size, room) */
entries __readlink_chk
    cmpq %rcx, %rdx
    ja real
/* readlink(path, buffer, size) */
entries readlink
    movq %rdi, %rax
    call is_own_exe
    jne real
copy:                           /* at most rdx bytes of r11 to rsi; no terminating NUL */
    testq %rdx, %rdx            /* the real one knows what a size of 0 means: EINVAL */
    jz real
    xorl %eax, %eax
1:  cmpq %rdx, %rax
    jae 2f
    movb (%r11,%rax), %cl
    testb %cl, %cl
    jz 2f
    movb %cl, (%rsi,%rax)
    incq %rax
    jmp 1b
2:  ret
real:
    jmp *%r10

/* __readlinkat_chk(directory, path, buffer, size, room) */
entries __readlinkat_chk
    cmpq %r8, %rcx
    ja real
/* readlinkat(directory, path, buffer, size) */
entries readlinkat
    testq %rcx, %rcx
    jz real
    movq %rsi, %rax
    call is_own_exe
    jne real
    movq %rdx, %rsi
    movq %rcx, %rdx
    jmp copy

    .section .rodata
exe_path:
    .asciz "/proc/self/exe"

    .section .note.GNU-stack, "", @progbits
