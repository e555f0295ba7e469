/* A library that the program and its plug-ins both need: there must be one copy of it. */
#include <stdio.h>

static int count;
int counter_next(void) { return ++count; }
int interposed(void) { return 1; }

__attribute__((constructor)) static void construct(void) { puts("counter constructed"); }
__attribute__((destructor)) static void destruct(void) { puts("counter destroyed"); }
