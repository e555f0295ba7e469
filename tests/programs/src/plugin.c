/* A plug-in that needs libcounter.so, which the program has already. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int counter_next(void);

int plugin_value = 17;
int plugin_next(void) { return counter_next(); }

/* Defined by no library of the start: only a later RTLD_GLOBAL library has it. */
extern int provided_later(void) __attribute__((weak));
int plugin_has_provider(void) { return provided_later ? provided_later() : -1; }

static void at_exit(void) { puts("plug-in's atexit"); }

#ifdef NO_ARGUMENTS /* musl calls constructors without any */
__attribute__((constructor)) static void construct(void) { atexit(at_exit); }
#else
__attribute__((constructor)) static void construct(int argc, char **argv, char **envp) {
  printf("plug-in constructed: argc %d, argv[argc] null %d, environment %d\n", argc, !argv[argc],
         envp != NULL);
  atexit(at_exit);
}
#endif
__attribute__((destructor)) static void destruct(void) { puts("plug-in destroyed"); }
