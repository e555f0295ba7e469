/* What boot asks of the machine: system calls, CPUID, writes into the program, calls, the jump.
   With SPIDL_FUZZ all of them are the fuzzer's own functions (fuzz_table.c). */
#ifndef SPIDL_SYSTEM_H
#define SPIDL_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

struct spidl_header;

/* x86-64 system call numbers. */
enum {
    SYS_WRITE = 1,
    SYS_CLOSE = 3,
    SYS_FSTAT = 5,
    SYS_MMAP = 9,
    SYS_MPROTECT = 10,
    SYS_BRK = 12,
    SYS_RT_SIGACTION = 13,
    SYS_WRITEV = 20,
    SYS_MSYNC = 26,
    SYS_EXECVE = 59,
    SYS_PRCTL = 157,
    SYS_GETTID = 186,
    SYS_EXIT_GROUP = 231,
    SYS_OPENAT = 257,
    SYS_NEWFSTATAT = 262,
    SYS_PRLIMIT64 = 302,
    SYS_SECCOMP = 317,
    SYS_X32 = 0x40000000, /* a number of the x32 architecture, which no filter of ours allows */
};

enum { EACCES_ = 13, EEXIST_ = 17, ENOTDIR_ = 20, ENOENT_ = 2 };

enum { AT_FDCWD_ = -100, OPEN_FLAGS = 02000000 | 04000 | 0400 }; /* CLOEXEC, NONBLOCK, NOCTTY */
enum { MAP_PRIVATE_ = 2, MAP_FIXED_NOREPLACE_ = 0x100000, MS_ASYNC_ = 1 };
enum { RLIMIT_STACK_ = 3, SECCOMP_SET_MODE_FILTER_ = 1 };
enum { PR_SET_NAME_ = 15, PR_SET_MM_ = 35, PR_SET_MM_MAP_ = 14, PR_SET_NO_NEW_PRIVS_ = 38 };
enum { ARCH_SET_GS_ = 0x1001, ARCH_SET_FS_ = 0x1002 };

/* Types of the auxiliary vector. */
enum {
    AUX_NULL = 0,
    AUX_PHDR = 3,
    AUX_PHNUM = 5,
    AUX_BASE = 7,
    AUX_ENTRY = 9,
    AUX_PLATFORM = 15,
    AUX_RANDOM = 25,
    AUX_EXECFN = 31,
    AUX_SYSINFO_EHDR = 33,
};

struct auxv {
    uint64_t type, value;
};

struct kernel_stat {
    uint64_t device, inode, links;
    uint32_t mode, user, group, pad;
    uint64_t special_device;
    int64_t size, block_size, blocks;
    int64_t atime[2], mtime[2], ctime[2];
    int64_t unused[3];
};
_Static_assert(sizeof(struct kernel_stat) == 144, "struct stat of x86-64");

struct kernel_iovec {
    const void *start;
    uint64_t length;
};

struct kernel_fprog {
    uint16_t length;
    const void *filter;
};

struct kernel_rlimit {
    uint64_t soft, hard;
};

struct kernel_mm_map {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
    uint64_t arg_start, arg_end, env_start, env_end;
    uint64_t *auxv;
    uint32_t auxv_size, exe_fd;
};
_Static_assert(sizeof(struct kernel_mm_map) == 104, "struct prctl_mm_map");

#ifdef SPIDL_FUZZ

int64_t system_call(int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                    uint64_t f);
void machine_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
void machine_store(uint64_t address, uint64_t value, uint32_t width);
uint64_t machine_call(uint64_t function, uint64_t argc, char **argv, char **envp);
_Noreturn void spidl_jump(uint64_t *stack, uint64_t target, uint64_t rax, uint64_t rdx);
const struct spidl_header *machine_table(void);
void *machine_open(uint64_t function, const char *file, int mode, const void *caller,
                   int64_t space, int argc, char **argv, char **envp);
_Noreturn void machine_error(uint64_t function, const char *object, const char *text);

#else

static inline int64_t system_call(int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                  uint64_t e, uint64_t f)
{
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    int64_t result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline void machine_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "0"(leaf), "2"(subleaf));
}

/* Words may be unaligned: packed tables hold relocated words too. */
static inline void machine_store(uint64_t address, uint64_t value, uint32_t width)
{
    if (width == 8)
        __builtin_memcpy((void *)address, &value, 8);
    else
        __builtin_memcpy((void *)address, &value, 4);
}

static inline uint64_t machine_call(uint64_t function, uint64_t argc, char **argv, char **envp)
{
    return ((uint64_t(*)(int, char **, char **))function)((int)argc, argv, envp);
}

_Noreturn void spidl_jump(uint64_t *stack, uint64_t target, uint64_t rax, uint64_t rdx);

/* Where boot.ld puts the table; hidden, so that its address is taken relative to the code. */
extern const struct spidl_header spidl_table __attribute__((visibility("hidden")));

static inline const struct spidl_header *machine_table(void)
{
    return &spidl_table;
}

/* glibc's _dl_open (elf/dl-open.c). */
static inline void *machine_open(uint64_t function, const char *file, int mode, const void *caller,
                                 int64_t space, int argc, char **argv, char **envp)
{
    return ((void *(*)(const char *, int, const void *, int64_t, int, char **, char **))function)(
        file, mode, caller, space, argc, argv, envp);
}

/* glibc's _dl_signal_error (elf/dl-catch.c): back to who called dlopen. */
_Noreturn static inline void machine_error(uint64_t function, const char *object, const char *text)
{
    ((void (*)(int, const char *, const char *, const char *))function)(0, object, 0, text);
    __builtin_unreachable();
}

#endif

static inline uint64_t number_of(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

#endif
