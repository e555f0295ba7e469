/* Python's part: a link made in a child process, now or later. */
#include "launcher.h"

enum { NO_STATUS = 256, F_GETFD_ = 1, ECHILD_ = 10, SIGCHLD_ = 17, SET_SIZE = 8 };

void hand_over(const struct words *python, char **words)
{
    uint64_t count = 0;
    while (words[count])
        count++;
    char **argv = reserve((python->count + count + 1) * sizeof *argv);
    if (!argv || !python->count)
        die("no-python", "Spidl's Python part cannot be found", own_path(), 0, "install spidl again",
            STATUS_USAGE);
    for (uint32_t i = 0; i < python->count; i++)
        argv[i] = (char *)(uintptr_t)python->word[i];
    for (uint64_t i = 0; i <= count; i++)
        argv[python->count + i] = words[i];
    int64_t error = execute(argv[0], argv);
    die("no-python", "cannot execute Spidl's Python part", argv[0], error, "install spidl again",
        STATUS_BROKEN);
}

static void to_null(int descriptor, int flags)
{
    int64_t null = system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, number_of("/dev/null"),
                               (uint64_t)flags, 0, 0, 0);
    if (null >= 0 && null != descriptor) {
        system_call(SYS_DUP2, (uint64_t)null, (uint64_t)descriptor, 0, 0, 0, 0);
        system_call(SYS_CLOSE, (uint64_t)null, 0, 0, 0, 0, 0);
    }
}

struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

/* Who ignores SIGCHLD is told nothing of how a child ended. */
static struct kernel_sigaction notice_children(void)
{
    struct kernel_sigaction by_default = {0}, before = {0};
    system_call(SYS_SIGACTION, SIGCHLD_, number_of(&by_default), number_of(&before), SET_SIZE, 0,
                0);
    return before;
}

/* They are meant for the program, or for other Pythons; a path that is not absolute would bring code
   of whatever folder this is. */
static void drop_python_variables(void)
{
    static const char *const kept[] = {"PYTHONDONTWRITEBYTECODE=", "PYTHONPYCACHEPREFIX="};
    char **to = launcher_envp;
    for (char **from = launcher_envp; *from; from++) {
        const char *path = after_prefix(*from, "PYTHONPATH=");
        int keep = !after_prefix(*from, "PYTHON") || (path && *path && !has_relative(path));
        for (uint32_t i = 0; i < sizeof kept / sizeof *kept; i++)
            keep |= after_prefix(*from, kept[i]) != 0;
        if (keep)
            *to++ = *from;
    }
    *to = 0;
}

static _Noreturn void become_keeper(const struct request *request, const char *but)
{
    static char *words[2 * WORDS];
    uint32_t count = 0;
    notice_children();
    drop_python_variables();
    words[count++] = "keep";
    if (request->quiet)
        words[count++] = "--quiet";
    if (but)
        words[count++] = joined("--but=", but, "");
    if (request->cache)
        words[count++] = joined("--cache=", request->cache, "");
    if (request->config)
        words[count++] = joined("--user-config=", request->config, "");
    for (uint32_t i = 0; i < request->options.count; i++)
        words[count++] = (char *)(uintptr_t)request->options.word[i];
    words[count++] = "--";
    words[count++] = (char *)(uintptr_t)request->program;
    for (uint32_t i = 0; i < count; i++)
        if (!words[i])
            leave(NO_STATUS - 1);
    hand_over(&request->python, words);
}

static int wait_for(int64_t child)
{
    uint32_t status = 0;
    int64_t done;
    do
        done = system_call(SYS_WAIT4, (uint64_t)child, number_of(&status), 0, 0, 0, 0);
    while (done < 0 && done != -ECHILD_);
    if (done < 0)
        return NO_STATUS;
    return status & 127 ? NO_STATUS : (int)(status >> 8 & 255);
}

/* A descriptor that is closed would become some file of Python's, and its messages go there. */
static void keep_open(int descriptor)
{
    if (system_call(SYS_FCNTL, (uint64_t)descriptor, F_GETFD_, 0, 0, 0, 0) < 0)
        to_null(descriptor, 1);
}

/* Links in a child process, so that nothing of Python's comes into the program's. */
int link_now(const struct request *request, const char *but)
{
    struct kernel_sigaction before = notice_children();
    int64_t child = system_call(SYS_FORK, 0, 0, 0, 0, 0, 0);
    if (child == 0) {
        to_null(0, 0);
        keep_open(1);
        if (request->quiet && !may_have_policy(request) && !variable("SPIDL_VERBOSE"))
            to_null(2, 1); /* whatever happens there, the program knows nothing of it */
        keep_open(2);
        system_call(SYS_DUP2, 2, 1, 0, 0, 0, 0);
        become_keeper(request, but);
    }
    int status = child < 0 ? NO_STATUS : wait_for(child);
    system_call(SYS_SIGACTION, SIGCHLD_, number_of(&before), 0, SET_SIZE, 0, 0);
    return status;
}

/* Links in a process of its own that nobody waits for and that holds no descriptor open. */
void link_later(const struct request *request, const char *but)
{
    if (system_call(SYS_GETPID, 0, 0, 0, 0, 0, 0) == 1)
        return; /* it would stay this process's child */
    struct kernel_sigaction before = notice_children();
    int64_t child = system_call(SYS_FORK, 0, 0, 0, 0, 0, 0);
    if (child == 0) {
        system_call(SYS_SETSID, 0, 0, 0, 0, 0, 0);
        if (system_call(SYS_FORK, 0, 0, 0, 0, 0, 0) == 0) {
            system_call(SYS_CLOSE_RANGE, 3, UINT32_MAX, 0, 0, 0, 0);
            to_null(0, 0);
            to_null(1, 1);
            to_null(2, 1);
            become_keeper(request, but);
        }
        leave(0);
    }
    if (child > 0)
        wait_for(child);
    system_call(SYS_SIGACTION, SIGCHLD_, number_of(&before), 0, SET_SIZE, 0, 0);
}
