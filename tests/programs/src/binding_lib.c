/* A library whose symbols bind in every way that the program can ask for. */
#include <stdio.h>
#include <stdlib.h>

/* IFUNC with a resolver that reads this library's own relocated data. */
static int picked(void) { return 41; }
static int not_picked(void) { return -1; }
static int (*volatile const choices[])(void) = {not_picked, picked};
static int choice = 1;
static int (*resolve(void))(void) { return choices[choice]; }
int library_ifunc(void) __attribute__((ifunc("resolve")));
int (*library_ifunc_pointer)(void) = library_ifunc;
int call_library_ifunc(void) { return library_ifunc() + (library_ifunc_pointer == library_ifunc); }
void *address_of_library_ifunc(void) { return (void *)library_ifunc; }

/* COPY: the program holds the only copy, and the library must use that one. */
int copied = 123;
int *copied_address(void) { return &copied; }
struct record { const char *name; int *target; } copied_record = {"record", &copied};
char **environment_seen(void) { extern char **environ; return environ; }
extern int copied_alias __attribute__((alias("copied")));

/* Protected and symbolic: bound inside, whatever the program defines. */
__attribute__((visibility("protected"))) int protected_function(void) { return 7; }
int call_protected(void) { return protected_function(); }
int overridable(void) { return 1; }
int call_overridable(void) { return overridable(); }
int overridable_variable = 1;
int read_overridable(void) { return overridable_variable; }

/* Weak: absent, and present elsewhere. */
extern int absent_weak(void) __attribute__((weak));
extern int weak_in_main(void) __attribute__((weak));
int weak_results(void) { return (absent_weak ? 100 : 0) + (weak_in_main ? weak_in_main() : 0); }
__attribute__((weak)) int weak_or_strong(void) { return 1; }

/* A common symbol, a pointer with an addend, a size. */
int table[16] = {10, 11, 12, 13};
int *inside = &table[3];
int (*function_pointer)(void) = call_protected;
int table_total(void) { return *inside + table[1]; }

void *(*library_malloc)(size_t) = malloc;
int pointer_equality(int (*theirs)(void)) { return theirs == overridable; }
