/* What the parts of boot share. */
#ifndef SPIDL_BOOT_H
#define SPIDL_BOOT_H

#include "common.h"

/* What the kernel gave this process, and how far boot has come. */
struct start {
    const struct spidl_header *table;
    uint64_t *stack; /* the kernel's stack pointer: the address of argc */
    char **argv, **envp;
    struct auxv *auxv;
    uint64_t auxv_count; /* entries, AUX_NULL included */
    uint64_t program_break, thread;
    uint64_t stack_limit; /* soft RLIMIT_STACK, bytes */
    int policy;           /* a policy is enforced: never the plain way */
    int called;           /* the program's own code has run: never start it a second time */
    int checking;         /* nothing has happened but checks and mappings */
};


/* Nothing in the table is used before this has found no fault. Returns 0 or what is wrong;
   *action is then the action's index, or -1 for the header. */
const char *table_fault(const struct spidl_header *table, uint64_t code, int64_t *action);

/* What a check found: no reason means that the fact is as linked. */
struct finding {
    const char *reason, *detail;
    int64_t error; /* a negative errno, or 0 */
};

struct finding check(const struct start *start, const struct spidl_action *action);
int64_t stat_path(const char *path, struct kernel_stat *now);
uint64_t aux_value(const struct start *start, uint64_t type);

/* The plain way, or a refusal where a policy forbids it. */
_Noreturn void fail(const struct start *start, struct finding finding);
/* One line `spidl: error[start/CODE]: TEXT` and the end. */
_Noreturn void die(const char *code, const char *text, const char *detail, int64_t number,
                   int status);

_Noreturn void spidl_boot(uint64_t *stack, const struct spidl_header *table, const void *code);

static inline const void *at(const struct spidl_header *table, uint32_t offset)
{
    return (const char *)table + offset;
}

static inline const char *text_at(const struct spidl_header *table, uint32_t offset)
{
    return at(table, offset);
}

#endif
