/* Boot on arbitrary tables, with a machine that checks what boot asks of it.

   With libFuzzer (-DSPIDL_LIBFUZZER), or as a loop that repeats itself exactly:
   fuzz_table ROUNDS SEED TABLE...  mutates the given tables. A fault is a sanitizer's report or an
   abort. The seeds' files all have the identity of `stat_file`. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"

static const struct spidl_header *table;
static uint64_t table_room;
static jmp_buf finished;
static uint64_t noise; /* decides which system calls fail */
static uint64_t jumps, plain_ways, deaths;
static int table_accepted, file_open;
static char vdso[8192];

#define REQUIRE(condition)                                                \
    do                                                                    \
        if (!(condition)) {                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                      \
        }                                                                 \
    while (0)

static uint64_t next(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    return noise;
}

static void require_in_spans(uint64_t address, uint64_t length)
{
    const struct spidl_span *spans = at(table, table->spans);
    REQUIRE(length > 0);
    for (uint32_t i = 0; i < table->span_count; i++)
        if (address >= spans[i].start && address + length > address &&
            address + length <= spans[i].end)
            return;
    REQUIRE(!"an address outside the spans");
}

static void require_text(uint64_t text)
{
    REQUIRE(text && strlen((const char *)text) < UINT32_MAX);
}

static int64_t stat_file(struct kernel_stat *now)
{
    memset(now, 0, sizeof *now);
    now->device = 1, now->inode = 2, now->size = 3;
    now->mtime[0] = 4, now->mtime[1] = 5, now->ctime[0] = 6, now->ctime[1] = 7;
    return 0;
}

int64_t system_call(int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                    uint64_t f)
{
    int fails = next() % 64 == 0;
    switch (number) {
    case SYS_MSYNC:
        REQUIRE(a == number_of(table) && b % SPIDL_PAGE == 0);
        return table->size <= table_room ? 0 : -12;
    case SYS_BRK:
        return 0x5000000;
    case SYS_GETTID:
        return 1234;
    case SYS_PRLIMIT64:
        *(struct kernel_rlimit *)d = (struct kernel_rlimit){8 << 20, UINT64_MAX};
        return 0;
    case SYS_OPENAT:
        require_text(b);
        REQUIRE(!file_open);
        if (fails)
            return -ENOENT_;
        file_open = 1;
        return 3;
    case SYS_FSTAT:
        REQUIRE(file_open && a == 3);
        return stat_file((struct kernel_stat *)b);
    case SYS_NEWFSTATAT:
        require_text(b);
        if (strstr((const char *)b, "absent") || fails)
            return -ENOENT_;
        stat_file((struct kernel_stat *)c);
        ((struct kernel_stat *)c)->inode += strcmp((const char *)b, "/proc/self/exe") == 0;
        return 0;
    case 0: { /* read, of what looks like /proc/self/maps */
        static const char marks[] = "0123456789abcdef-- rxp/\n";
        REQUIRE(file_open && a == 3);
        for (uint64_t i = 0; i < c; i++)
            ((char *)b)[i] = marks[next() % (sizeof marks - 1)];
        return next() % 2 ? 0 : (int64_t)(next() % (c + 1));
    }
    case SYS_CLOSE:
        REQUIRE(file_open && a == 3);
        file_open = 0;
        return 0;
    case SYS_MMAP:
        REQUIRE(file_open && e == 3 && a % SPIDL_PAGE == 0 && f % SPIDL_PAGE == 0 && c <= 7);
        REQUIRE(d == (MAP_PRIVATE_ | MAP_FIXED_NOREPLACE_));
        require_in_spans(a, (b + SPIDL_PAGE - 1) / SPIDL_PAGE * SPIDL_PAGE);
        return fails ? -EEXIST_ : (int64_t)a;
    case SYS_MPROTECT:
        REQUIRE(a % SPIDL_PAGE == 0 && c <= 7);
        require_in_spans(a, (b + SPIDL_PAGE - 1) / SPIDL_PAGE * SPIDL_PAGE);
        return fails ? -12 : 0;
    case SYS_PRCTL:
        if (a == PR_SET_NAME_)
            require_text(b);
        else if (a == PR_SET_MM_)
            REQUIRE(b == PR_SET_MM_MAP_ && d == sizeof(struct kernel_mm_map));
        else
            REQUIRE(a == PR_SET_NO_NEW_PRIVS_ && b == 1);
        return fails ? -22 : 0;
    case SYS_SECCOMP: {
        const struct kernel_fprog *program = (const struct kernel_fprog *)c;
        static char copy[4096 * 8];
        REQUIRE(program->length > 0 && program->length <= 4096);
        memcpy(copy, program->filter, program->length * 8u);
        return fails ? -22 : 0;
    }
    case SYS_WRITEV: {
        const struct kernel_iovec *part = (const struct kernel_iovec *)b;
        REQUIRE(a == 2);
        for (uint64_t i = 0; i < c; i++)
            REQUIRE(!memchr(part[i].start, 0, part[i].length));
        return 0;
    }
    case SYS_WRITE:
        REQUIRE(a == 2 && memchr((const char *)b, 0, c) == 0);
        return 0;
    case SYS_RT_SIGACTION:
        REQUIRE(a == SIGSYS_ && ((const struct kernel_sigaction *)b)->handler == spidl_sigsys);
        return fails ? -22 : 0;
    case SYS_X32:
        return 0;
    case SYS_EXECVE:
        require_text(a);
        REQUIRE(table_accepted && !file_open);
        if (table->front && a == number_of(table) + table->front) {
            char **last = (char **)c;
            while (last[1])
                last++;
            require_text(number_of(*last)); /* what the launcher is told */
            return -ENOENT_;
        }
        REQUIRE(!(table->flags & SPIDL_FLAG_POLICY));
        plain_ways++;
        return -ENOENT_;
    case SYS_EXIT_GROUP:
        REQUIRE(!file_open && (a == 126 || a == 127 || a == 128 + SIGSYS_));
        deaths++;
        longjmp(finished, 1);
    case SPIDL_CALL_ARCH_PRCTL:
        break;
    default:
        REQUIRE(number == SPIDL_CALL_SET_TID_ADDRESS || number == SPIDL_CALL_SET_ROBUST_LIST ||
                number == SPIDL_CALL_RSEQ);
    }
    if (number == SPIDL_CALL_ARCH_PRCTL)
        REQUIRE(a == ARCH_SET_FS_ || a == ARCH_SET_GS_);
    return fails ? -22 : 0;
}

void machine_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    out[0] = leaf, out[1] = subleaf, out[2] = 2, out[3] = 3;
}

void machine_store(uint64_t address, uint64_t value, uint32_t width)
{
    (void)value;
    REQUIRE(width == 4 || width == 8);
    require_in_spans(address, width);
}

uint64_t machine_call(uint64_t function, uint64_t argc, char **argv, char **envp)
{
    REQUIRE(function >= SPIDL_PAGE && function < SPIDL_ADDRESS_END);
    REQUIRE(argc == 1 && argv[0] && envp[0]);
    return function;
}

void spidl_jump(uint64_t *stack, uint64_t target, uint64_t rax, uint64_t rdx)
{
    (void)rax, (void)rdx;
    REQUIRE(stack[0] == 1 && target >= SPIDL_PAGE && target < SPIDL_ADDRESS_END && !file_open);
    jumps++;
    longjmp(finished, 1);
}

void spidl_sigsys(void)
{
}

const struct spidl_header *machine_table(void)
{
    return table;
}

void *machine_open(uint64_t function, const char *file, int mode, const void *caller,
                   int64_t space, int argc, char **argv, char **envp)
{
    (void)mode, (void)caller, (void)space, (void)argc, (void)argv, (void)envp;
    REQUIRE(function >= SPIDL_PAGE && function < SPIDL_ADDRESS_END);
    require_text(number_of(file));
    return next() % 2 ? &noise : 0;
}

void machine_error(uint64_t function, const char *object, const char *text)
{
    REQUIRE(function >= SPIDL_PAGE && function < SPIDL_ADDRESS_END);
    require_text(number_of(object));
    require_text(number_of(text));
    longjmp(finished, 1);
}

static void open_one(const char *file)
{
    if (setjmp(finished) == 0)
        spidl_open(file, (int)(next() % 8), (void *)(next() % 2 ? next() : 0x40000000),
                   (int64_t)(next() % 4) - 2, 0, 0, 0);
}

/* The program opens libraries: by the names in the table, by a path, with any caller. */
static void open_some(void)
{
    const struct spidl_action *action = at(table, table->actions);
    for (uint32_t i = 0; i < table->action_count; i++, action++) {
        if (action->kind != SPIDL_KIND_GATE)
            continue;
        const struct spidl_opening *opening = at(table, action->array);
        for (uint32_t j = 0; j < action->count; j++, opening++) {
            const uint32_t *name = at(table, opening->names);
            const struct spidl_opened *files = at(table, opening->files);
            open_one(next() % 2 && opening->name_count ? text_at(table, *name)
                                                       : text_at(table, files->path));
        }
        break; /* the first gate is the one that is used */
    }
}

/* What happens behind the jump: filters that wait for the entry, calls that they stop. */
static void enter_and_stop(void)
{
    static uint64_t pages[2 * SPIDL_PAGE / 8] __attribute__((aligned(SPIDL_PAGE)));
    char context[UCONTEXT_RSP + 8];
    struct kernel_siginfo info = {SIGSYS_, 0, next() % 4 != 0, 0, 0, 0, 0};
    const struct spidl_action *action = at(table, table->actions);
    for (uint32_t i = 0; i < table->action_count; i++, action++)
        if (action->kind == SPIDL_KIND_REPORT && action->count) {
            const struct spidl_origin *origin = at(table, action->array);
            for (size_t word = 0; word < sizeof pages / 8; word++)
                pages[word] = origin[next() % action->count].start + next() % 64;
            info.address = origin[next() % action->count].end - next() % 64;
        }
    info.number = (int32_t)(next() % 512);
    uint64_t stack = number_of(pages) + next() % SPIDL_PAGE;
    memcpy(context + UCONTEXT_RSP, &stack, 8);
    if (setjmp(finished) == 0) {
        spidl_enter(table);
        spidl_stopped(SIGSYS_, &info, context, table);
    }
}

static void start_one(const void *data, size_t size)
{
    static char arguments[] = "image", plain[] = "SPIDL_VERBOSE=1";
    static char linker[] = "LD_LIBRARY_PATH=/lib";
    static char random[] = "sixteen bytes...";
    uint64_t stack[] = {
        1, number_of(arguments), 0, number_of(plain), number_of(linker), 0,
        AUX_PHDR, 64, AUX_PHNUM, 3, AUX_BASE, 0, AUX_ENTRY, SPIDL_PAGE,
        AUX_EXECFN, number_of(arguments), AUX_PLATFORM, number_of("x86_64"),
        AUX_RANDOM, number_of(random),
        AUX_SYSINFO_EHDR, number_of(vdso), AUX_NULL, 0,
    };
    if (size < sizeof(struct spidl_header))
        return;
    struct spidl_header *copy = malloc(size); /* not a byte more, for the sanitizer */
    REQUIRE(copy);
    memcpy(copy, data, size);
    table = copy;
    table_room = size;
    file_open = 0;
    int64_t index;
    table_accepted = table_fault(table, number_of(table), &index) == 0;
    if (setjmp(finished) == 0)
        spidl_boot(stack, table, table);
    if (table_accepted) {
        open_some();
        enter_and_stop();
    }
    free(copy);
}

#ifdef SPIDL_LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    noise = size + 1;
    start_one(data, size);
    return 0;
}

#else

enum { TABLE_MAX = 1 << 20 };

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *data = malloc(TABLE_MAX);
    REQUIRE(file && data);
    *size = fread(data, 1, TABLE_MAX, file);
    fclose(file);
    return data;
}

/* Words are where the offsets, counts, kinds and addresses are. */
static void mutate(char *data, size_t size)
{
    static const uint64_t edges[] = {0, 1, 7, 8, 4095, 4096, 0x7fffffff, 0x80000000,
                                     0x20000000, 0x10000000, 0xfffffff8, 0xffffffff,
                                     0x7fffffffffff, 0x7fffffffffffffff, 0xffffffffffffffff};
    uint64_t value, place = next() % (size / 4) * 4;
    memcpy(&value, data + place, 4);
    switch (next() % 5) {
    case 0:
        value = edges[next() % (sizeof edges / sizeof *edges)];
        break;
    case 1:
        value += next() % 17 - 8;
        break;
    case 2:
        value ^= (uint64_t)1 << next() % 32;
        break;
    case 3:
        value = next() % size;
        break;
    default:
        memcpy(&value, data + next() % (size / 4) * 4, 4);
    }
    memcpy(data + place, &value, next() % 2 && place + 8 <= size ? 8 : 4);
}

int main(int argc, char **argv)
{
    REQUIRE(argc > 3);
    uint64_t rounds = strtoull(argv[1], 0, 10);
    noise = strtoull(argv[2], 0, 10) * 2 + 1;
    for (int file = 3; file < argc; file++) {
        size_t size;
        char *seed = read_file(argv[file], &size), *data = malloc(size);
        REQUIRE(data);
        uint64_t before = jumps;
        for (int i = 0; i < 100 && jumps == before; i++) /* some of them meet failing calls */
            start_one(seed, size);
        if (jumps == before) {
            fprintf(stderr, "%s: boot does not accept this seed\n", argv[file]);
            return 1;
        }
        for (uint64_t round = 0; round < rounds; round++) {
            memcpy(data, seed, size);
            for (uint64_t i = 0; i <= next() % 4; i++)
                mutate(data, size);
            uint64_t cut = next() % 16 ? size : next() % size;
            if (cut > sizeof(struct spidl_header) && next() % 2)
                memcpy(data + offsetof(struct spidl_header, size), &cut, sizeof cut);
            start_one(data, cut);
        }
        free(seed);
        free(data);
    }
    printf("jumps %llu plain %llu deaths %llu\n", (unsigned long long)jumps,
           (unsigned long long)plain_ways, (unsigned long long)deaths);
    return 0;
}

#endif
