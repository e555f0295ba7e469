/* libspidl-trace.so: what the trace module adds to a program. It needs no other library, keeps no
   lock and no state of a thread, and makes system calls itself: it may be entered from anywhere,
   signal handlers and forked children included. */
#include "trace.h"

enum {
    SYS_WRITE = 1, SYS_CLOSE = 3, SYS_FSTAT = 5, SYS_MMAP = 9, SYS_GETPID = 39, SYS_FCNTL = 72,
    SYS_FTRUNCATE = 77, SYS_GETTID = 186, SYS_OPENAT = 257, SYS_PREAD = 17, SYS_PWRITE = 18,
};
enum { AT_FDCWD = -100, O_RDWR = 2, O_APPENDING = 1 | 0100 | 02000 | 0400, O_CLOEXEC = 02000000 };
enum { F_DUPFD_CLOEXEC = 1030, PAGE = 4096, NOBODY = -1 };
enum { PROT_BOTH = 3, MAP_SHARED_FIXED = 0x11, MAP_ANONYMOUS = 0x20, STDERR = 2 };

struct kernel_stat {
    uint64_t device, inode, links, rest[15];
};

static struct {
    int descriptor;
    uint64_t device, inode; /* of what lines are written to */
    char path[1024];        /* empty: standard error */
    long process;           /* the one that writes the counts at exit; 0: nobody */
} state = {NOBODY, 0, 0, "", 0};

long trace_system(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static int is_output(int descriptor)
{
    struct kernel_stat found;
    return trace_system(SYS_FSTAT, descriptor, (long)&found, 0, 0, 0, 0) == 0 &&
           found.device == state.device && found.inode == state.inode;
}

/* Out of the way of programs that expect certain numbers. */
static int moved_up(int descriptor)
{
    static const int lowest[] = {900, 200, 20};
    for (int i = 0; i < 3; i++) {
        long found = trace_system(SYS_FCNTL, descriptor, F_DUPFD_CLOEXEC, lowest[i], 0, 0, 0);
        if (found >= 0)
            return (int)found;
    }
    return NOBODY;
}

static int opened(void)
{
    if (!*state.path)
        return moved_up(STDERR);
    long found = trace_system(SYS_OPENAT, AT_FDCWD, (long)state.path, O_APPENDING | O_CLOEXEC, 0666,
                              0, 0);
    if (found < 0)
        return NOBODY;
    int high = moved_up((int)found);
    if (high < 0)
        return (int)found;
    trace_system(SYS_CLOSE, found, 0, 0, 0, 0, 0);
    return high;
}

/* A descriptor of the output: programs close what they do not know, and then it may be another
   file's. */
static int output(void)
{
    int known = __atomic_load_n(&state.descriptor, __ATOMIC_RELAXED);
    if (known >= 0 && is_output(known))
        return known;
    if (!*state.path)
        return is_output(STDERR) ? STDERR : NOBODY;
    int found = opened();
    if (found >= 0 && !is_output(found)) { /* somebody moved or removed it: to the new one */
        struct kernel_stat now;
        if (trace_system(SYS_FSTAT, found, (long)&now, 0, 0, 0, 0) == 0)
            state.device = now.device, state.inode = now.inode;
    }
    __atomic_store_n(&state.descriptor, found, __ATOMIC_RELAXED);
    return found;
}

void write_line(const char *text, size_t length)
{
    int descriptor = output();
    if (descriptor >= 0)
        trace_system(SYS_WRITE, descriptor, (long)text, (long)length, 0, 0, 0);
}

static const char *variable(char **envp, const char *name)
{
    for (; *envp; envp++) {
        const char *a = *envp, *b = name;
        while (*b && *a == *b)
            a++, b++;
        if (!*b && *a == '=')
            return a + 1;
    }
    return 0;
}

static struct counter *counters(void)
{
    return (struct counter *)((char *)&spidl_trace_calls - spidl_trace_calls.counters);
}

/* The counters in a file, behind what they mean: whoever made the file reads them when all is over,
   however the processes ended. Says whether they are there. */
static int share(const char *path)
{
    const struct trace *trace = &spidl_trace_calls;
    long behind = (trace->size + PAGE - 1) & -PAGE;
    long file = trace_system(SYS_OPENAT, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0);
    if (file < 0)
        return 0;
    struct trace there;
    long size = trace_system(SYS_PREAD, file, (long)&there, sizeof there, 0, 0, 0);
    int same = size == sizeof there;
    if (size == 0) {
        same = trace_system(SYS_PWRITE, file, (long)trace, trace->size, 0, 0, 0) == trace->size &&
               trace_system(SYS_FTRUNCATE, file, behind + trace->counters, 0, 0, 0, 0) == 0;
    } else {
        for (size_t i = 0; i < sizeof trace->identity; i++)
            same &= there.identity[i] == trace->identity[i];
    }
    long at = (long)counters();
    same = same && trace_system(SYS_MMAP, at, trace->counters, PROT_BOTH, MAP_SHARED_FIXED, file,
                                behind) == at;
    trace_system(SYS_CLOSE, file, 0, 0, 0, 0, 0);
    return same;
}

/* Called by boot, before any code of the program's. */
__attribute__((visibility("default"))) void spidl_trace_start(int argc, char **argv, char **envp)
{
    (void)argc;
    (void)argv;
    const struct trace *trace = &spidl_trace_calls;
    const char *path = variable(envp, "SPIDL_TRACE_OUTPUT");
    if (!path || !*path)
        path = (const char *)trace + trace->output;
    for (size_t i = 0; path[i] && i < sizeof state.path - 1; i++)
        state.path[i] = path[i]; /* programs write over their environment */
    int found = opened();
    struct kernel_stat now;
    if (found >= 0 && trace_system(SYS_FSTAT, found, (long)&now, 0, 0, 0, 0) == 0)
        state.device = now.device, state.inode = now.inode;
    state.descriptor = found;
    const char *file = variable(envp, "SPIDL_TRACE");
    if (file && share(file))
        return;
    /* Shared with forked children, so that their calls count too. */
    trace_system(SYS_MMAP, (long)counters(), trace->counters, PROT_BOTH,
                 MAP_SHARED_FIXED | MAP_ANONYMOUS, -1, 0);
    if (trace->table)
        state.process = trace_system(SYS_GETPID, 0, 0, 0, 0, 0, 0);
}

/* The counts, the largest first. */
static __attribute__((destructor)) void end(void)
{
    const struct trace *trace = &spidl_trace_calls;
    if (!state.process || state.process != trace_system(SYS_GETPID, 0, 0, 0, 0, 0, 0))
        return;
    uint64_t below = ~0ULL;
    while (below) {
        uint64_t most = 0;
        for (uint32_t i = 0; i < trace->count; i++)
            if (counters()[i].calls < below && counters()[i].calls > most)
                most = counters()[i].calls;
        for (uint32_t i = 0; most && i < trace->count; i++) {
            if (counters()[i].calls != most)
                continue;
            char text[512];
            struct line line = {text, 0, sizeof text - 1};
            put_number(&line, most, 10, 12);
            for (int j = 0; j < 3; j++) {
                const struct call *call = &trace->calls[i];
                put_text(&line, "  ");
                put_text(&line, (const char *)trace +
                                    (j == 0 ? call->caller : j == 1 ? call->symbol : call->of));
            }
            text[line.length++] = '\n';
            write_line(text, line.length);
        }
        below = most;
    }
}

static void begin_line(struct line *line, const struct call *call)
{
    put_number(line, (uint64_t)trace_system(SYS_GETTID, 0, 0, 0, 0, 0, 0), 10, 0);
    put_text(line, " ");
    put_text(line, (const char *)&spidl_trace_calls + call->caller);
    put_text(line, " ");
    put_text(line, (const char *)&spidl_trace_calls + call->symbol);
}

static void end_line(struct line *line)
{
    line->text[line->length++] = '\n';
    write_line(line->text, line->length);
}

/* Arguments are read before the call: it may free what they point to. */
__attribute__((visibility("hidden"))) void trace_called(struct frame *frame)
{
    const struct call *call = frame->call;
    struct line line = {frame->line, 0, sizeof frame->line - 40};
    begin_line(&line, call);
    put_call(&line, frame);
    frame->length = line.length;
    if (call->flags & TRACE_CALL)
        end_line(&line);
}

__attribute__((visibility("hidden"))) void trace_returned(struct frame *frame)
{
    const struct call *call = frame->call;
    struct line line = {frame->line, frame->length, sizeof frame->line - 1};
    if (call->flags & TRACE_CALL) {
        line.length = 0;
        begin_line(&line, call);
    }
    int is_float = call->result == TYPE_DOUBLE || call->result == TYPE_FLOAT;
    put_text(&line, call->result == TYPE_VOID ? " returned" : " = ");
    put_value(&line, call->result, is_float ? frame->vector[0] : frame->rax, 0);
    end_line(&line);
}
