/* Where the program is entered, x86-64 System V: ld.so hands it _dl_fini in rdx (psABI 3.4.1). */

    .section .text.start, "ax", @progbits
    .globl spaces_table
    .balign 8
spaces_table:
    .quad 0 /* the address of the table, which the image's writer knows */

    .globl spaces_enter
    .type spaces_enter, @function
spaces_enter:
    movq spaces_table(%rip), %rax
    movq %rdx, 8(%rax)
    call spaces_entered
    movq spaces_table(%rip), %rax
    leaq spaces_finish(%rip), %rdx
    jmp *16(%rax)

    .section .note.GNU-stack, "", @progbits
