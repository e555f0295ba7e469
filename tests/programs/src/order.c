/* Announces construction and destruction; built many times with another NAME. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

__attribute__((constructor)) static void construct(int argc, char **argv, char **envp) {
  printf(TEXT(NAME) " constructed, argc %d, argv %d, envp %d\n", argc, argv && argv[0] && !argv[argc],
         envp && (!envp[0] || strchr(envp[0], '=') != NULL));
}
__attribute__((constructor(200))) static void early(void) { puts(TEXT(NAME) " constructor 200"); }
__attribute__((constructor(300))) static void later(void) { puts(TEXT(NAME) " constructor 300"); }
__attribute__((destructor)) static void destruct(void) { puts(TEXT(NAME) " destroyed"); }
__attribute__((destructor(200))) static void last(void) { puts(TEXT(NAME) " destructor 200"); }
void init_function(void) { puts(TEXT(NAME) " DT_INIT"); }
void fini_function(void) { puts(TEXT(NAME) " DT_FINI"); }
static void at_exit(void) { puts(TEXT(NAME) " atexit"); }
__attribute__((constructor)) static void registers(void) { atexit(at_exit); }

#ifdef PROGRAM
static void preinit(int argc, char **argv, char **envp) {
  printf("preinit, argc %d, argv %d, envp %d\n", argc, argv && argv[0],
         envp && (!envp[0] || strchr(envp[0], '=') != NULL));
}
__attribute__((section(".preinit_array"), used)) static void (*entry)(int, char **, char **) = preinit;
int main(void) { return puts("main"), 0; }
#endif
