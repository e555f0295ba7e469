/* Symbols of all kinds: IFUNC, weak, data, relative pointers, calls into libc. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
static int first(void) { return 1; }
static int second(void) { return 2; }
static void *choose(void) { return getenv("SPIDL_TEST_SECOND") ? (void *)second : (void *)first; }
int chosen(void) __attribute__((ifunc("choose")));
static int local_chosen(void) __attribute__((ifunc("choose")));
int call_local(void) { return local_chosen(); }
int (*pointer)(void) = chosen;
int call_pointer(void) { return pointer(); }
extern int nobody(void) __attribute__((weak));
int has_nobody(void) { return nobody != 0; }
int variable = 5;
int *to_variable = &variable;
const char *const names[] = {"one", "two", "three"};
const char *name(int i) { return names[i]; }
int fail(void) { errno = ENOTDIR; return -1; }
size_t length(const char *s) { return strlen(s); }
void *(*const alloc)(size_t) = malloc;
void *allocate(void) { char *p = alloc(200000); memset(p, 'x', 200000); return p; }
