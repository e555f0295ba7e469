/* Wraps a libc function and one of another library: RTLD_NEXT starts after this library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int interposed(void) {
  int (*next)(void) = (int (*)(void))dlsym(RTLD_NEXT, "interposed");
  return 10 + (next ? next() : -100);
}

static int calls;
int wrapped_calls(void) { return calls; }

pid_t getppid(void) {
  calls++;
  return ((pid_t(*)(void))dlsym(RTLD_NEXT, "getppid"))() > 0 ? 1234 : -1;
}
