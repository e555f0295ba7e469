/* A program that makes calls no analysis of it can see: machine code that it writes itself.

   filtered_main WHAT PATH: in the main thread, in another one, in a child, after it asked for the
   signal itself. It reports each step, so that a test sees how far it came. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MKNOD = 133, GETPID = 39 };

static const char *path;

/* Makes a call from a page of its own. */
static long secretly(long number, const void *a, long b)
{
    unsigned char code[] = {0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x0f, 0x05, 0xc3};
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    memcpy(page, code, sizeof code);
    return ((long (*)(long, const void *, long))page)(number, a, b);
}

static void *thread(void *unused)
{
    (void)unused;
    printf("mknod %ld\n", secretly(MKNOD, path, S_IFREG | 0600));
    fflush(stdout);
    return 0;
}

static void handler(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    printf("caught %d\n", info->si_syscall);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    path = argc > 2 ? argv[2] : "";
    setvbuf(stdout, 0, _IONBF, 0);
    printf("started\n");
    if (!strcmp(what, "main"))
        thread(0);
    if (!strcmp(what, "getpid"))
        printf("getpid %d\n", secretly(GETPID, 0, 0) == getpid());
    if (!strcmp(what, "thread")) {
        pthread_t id;
        pthread_create(&id, 0, thread, 0);
        pthread_join(id, 0);
    }
    if (!strcmp(what, "fork")) {
        int status;
        if (fork() == 0) {
            thread(0);
            _exit(0);
        }
        wait(&status);
        printf("child %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    }
    if (!strcmp(what, "catch") || !strcmp(what, "ignore")) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = handler;
        if (!strcmp(what, "ignore"))
            action.sa_handler = SIG_IGN;
        printf("sigaction %d\n", sigaction(SIGSYS, &action, 0));
        thread(0);
    }
    if (!strcmp(what, "block")) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, 0);
        thread(0);
    }
    printf("ended\n");
    return 0;
}
