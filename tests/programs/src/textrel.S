/* Code that holds absolute addresses: the linker must write into text (DT_TEXTREL). */
        .text
        .globl  text_value, text_call
        .type   text_value, @function
        .type   text_call, @function
text_value:
        movabsq $text_data, %rax
        movl    (%rax), %eax
        ret
text_call:
        movabsq $getppid, %rax
        jmp     *%rax
        .size   text_value, .-text_value
        .data
text_data:
        .long   55
        .section .note.GNU-stack, "", @progbits
