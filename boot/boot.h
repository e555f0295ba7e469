/* What the parts of boot share. */
#ifndef SPIDL_BOOT_H
#define SPIDL_BOOT_H

#include "common.h"

/* Signals, for report.c. */
enum { SIGSYS_ = 31, SI_SECCOMP_ = 1 };
enum { SA_SIGINFO_ = 4, SA_RESTORER_ = 0x04000000, SA_ONSTACK_ = 0x08000000 };
enum { UCONTEXT_RSP = 160 };

struct kernel_sigaction {
    void (*handler)(void);
    uint64_t flags;
    void (*restorer)(void);
    uint64_t mask;
};

/* siginfo_t of a SIGSYS that a filter sent. */
struct kernel_siginfo {
    int32_t signal, error, code, pad;
    uint64_t address; /* behind the instruction that made the call */
    int32_t number;
    uint32_t arch;
};

/* Hidden, so that its address is taken relative to the code. */
__attribute__((visibility("hidden"))) void spidl_sigsys(void);

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

enum { STATUS_REFUSED = 126, STATUS_BROKEN = 127 };

struct finding check(const struct start *start, const struct spidl_action *action);
int64_t stat_path(const char *path, struct kernel_stat *now);
uint64_t aux_value(const struct start *start, uint64_t type);

/* The plain way, or a refusal where a policy forbids it. */
_Noreturn void fail(const struct start *start, struct finding finding);
/* One line `spidl: error[start/CODE]: TEXT` and the end. */
_Noreturn void die(const char *code, const char *text, const char *detail, int64_t number,
                   int status);

/* Make `spidl_sigsys` the handler of SIGSYS; a negative errno, or 0. */
int64_t report(void);

/* Stands in for ld.so's _dl_open, with its arguments and its result. */
void *spidl_open(const char *file, int mode, const void *caller, int64_t space, int argc,
                 char **argv, char **envp);
uint64_t spidl_enter(const struct spidl_header *table);
_Noreturn void spidl_stopped(int signal, const struct kernel_siginfo *info, const char *context,
                             const struct spidl_header *table);
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
