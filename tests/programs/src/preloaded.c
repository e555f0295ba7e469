/* For LD_PRELOAD: comes before the program's own libraries. */
#include <stdio.h>
int value(void) { return 1000; }
__attribute__((constructor)) static void construct(void) { puts("preloaded"); }
