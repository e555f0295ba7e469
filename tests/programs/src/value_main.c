#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int value(void);
int main(int argc, char **argv) {
  printf("value %d\n", value());
  for (int i = 1; i < argc; i++) {
    void *library = dlopen(argv[i], RTLD_LAZY | RTLD_LOCAL);
    int (*function)(void) = library ? (int (*)(void))dlsym(library, "value") : NULL;
    printf("%s: %d\n", argv[i], function ? function() : -1);
  }
  return 0;
}
