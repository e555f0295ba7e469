/* A section that is writable and executable: the program patches its own code. */
#include <stdio.h>

__asm__(
    ".section .patchable, \"awx\", @progbits\n"
    ".globl patchable\n.type patchable, @function\n"
    "patchable: mov $1, %eax\n  ret\n.size patchable, .-patchable\n.previous\n");
int patchable(void);

int main(void) {
  volatile unsigned char *code = (volatile unsigned char *)(unsigned long)patchable;
  printf("before %d\n", patchable());
  code[1] = 9;
  printf("after %d\n", patchable());
  return 0;
}
