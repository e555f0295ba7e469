/* A library whose constructor opens another one. */
#include <dlfcn.h>
#include <stdio.h>

static int seen = -1;
int seen_by_constructor(void) { return seen; }

__attribute__((constructor)) static void construct(void) {
  void *library = dlopen("libprovider.so", RTLD_NOW);
  if (!library) {
    puts(dlerror());
    return;
  }
  seen = ((int (*)(void))dlsym(library, "provided_later"))();
  printf("constructor opened a library: %d\n", seen);
}
