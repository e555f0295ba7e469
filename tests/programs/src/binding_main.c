#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <unistd.h>

#include "facts.h"

int library_ifunc(void), call_library_ifunc(void), protected_function(void), call_protected(void);
int call_overridable(void), read_overridable(void), weak_results(void), weak_or_strong(void);
int table_total(void), pointer_equality(int (*)(void));
void *address_of_library_ifunc(void);
extern int copied, copied_alias, *copied_address(void), *inside;
extern struct record { const char *name; int *target; } copied_record;
extern void *(*library_malloc)(size_t);
extern int (*function_pointer)(void);
char **environment_seen(void);

int overridable(void) { return 2; }
int overridable_variable = 2;
int weak_in_main(void) { return 5; }

static int chosen(void) { return 77; }
static int (*resolve_own(void))(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse2") ? chosen : NULL;
}
int own_ifunc(void) __attribute__((ifunc("resolve_own")));
static int (*own_pointer)(void) = own_ifunc;
static int (*library_pointer)(void) = library_ifunc;

static int ifunc(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("own %d, through a pointer %d, equal %d", own_ifunc(), own_pointer(),
       own_pointer == own_ifunc);
  FACT("library's %d, through a pointer %d, from the library %d", library_ifunc(),
       library_pointer(), call_library_ifunc());
  FACT("one address %d %d", library_pointer == library_ifunc,
       (void *)library_ifunc == address_of_library_ifunc());
  return 0;
}

static int copy(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("value %d, one copy %d, alias %d", copied, &copied == copied_address(),
       &copied_alias == &copied);
  copied = 124;
  FACT("library sees %d, record %s %d", *copied_address(), copied_record.name,
       *copied_record.target);
  FACT("environ %d, stdout %d", environ == environment_seen(), stdout != NULL);
  setenv("NEW", "1", 1);
  FACT("after growth %d", environ == environment_seen());
  return 0;
}

static int visibility(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("protected %d %d", protected_function(), call_protected());
  FACT("overridden function %d, variable %d", call_overridable(), read_overridable());
  FACT("pointer equality %d", pointer_equality(overridable));
  FACT("weak %d %d", weak_results(), weak_or_strong());
  FACT("addend %d, total %d, pointer %d", *inside, table_total(), function_pointer());
  return 0;
}

/* The program's malloc replaces libc's everywhere, in libraries and in ld.so's later calls. */
static unsigned long allocations;
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void __libc_free(void *);
#ifdef OWN_MALLOC
void *malloc(size_t size) { return allocations++, __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return allocations++, __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return allocations++, __libc_realloc(block, size); }
void free(void *block) { __libc_free(block); }
#endif

static int interposition(int argc, char **argv) {
  (void)argc, (void)argv;
  unsigned long before = allocations;
  free(library_malloc(10));
  free(strdup("text"));
  FACT("counted %lu, library's pointer is ours %d", allocations - before,
       library_malloc == malloc);
  return 0;
}

BEHAVIOURS({"ifunc", ifunc}, {"copy", copy}, {"visibility", visibility},
           {"interposition", interposition})
