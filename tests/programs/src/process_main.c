#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "facts.h"

extern char **environ;

static int reap(const char *what, pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  FACT("%s: exited %d with %d, signal %d", what, WIFEXITED(status), WEXITSTATUS(status),
       WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  fflush(stdout);
  return 0;
}

static int arguments(int argc, char **argv) {
  for (int i = 0; i < argc; i++) FACT("argv[%d] %s", i, i ? argv[i] : base_name(argv[i]));
  FACT("argv[argc] %d, %s, %s", argv[argc] == NULL, base_name(program_invocation_name),
       program_invocation_short_name);
  return 0;
}

static int environment(int argc, char **argv) {
  (void)argc, (void)argv;
  int count = 0;
  for (char **entry = environ; entry && *entry; entry++) FACT("%s", *entry), count++;
  FACT("%d variables, PATH %s, argv before envp %d", count, getenv("PATH") ? "set" : "unset",
       environ == argv + argc + 1);
  setenv("ADDED", "by setenv", 1);
  putenv((char *)"PUT=by putenv");
  unsetenv("HOME");
  FACT("%s, %s, %d", getenv("ADDED"), getenv("PUT"), getenv("HOME") == NULL);
  fflush(stdout);
  int status = system("echo \"$ADDED\" \"${HOME-no home}\"");
  clearenv();
  FACT("status %d, cleared %d", status, environ == NULL || !*environ);
  return 0;
}

static int forks(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("before");
  fflush(stdout);
  pid_t child = fork();
  if (!child) FACT("child"), exit(3);
  reap("fork", child);
  for (int i = 0; i < 50; i++) {
    child = fork();
    if (!child) _exit(i & 1 ? 0 : 255);
    waitpid(child, NULL, 0);
  }
  child = vfork();
  if (!child) _exit(4);
  reap("vfork", child);
  child = fork();
  if (!child) abort();
  reap("abort", child);
  struct clone_args clone = {.exit_signal = SIGCHLD};
  child = (pid_t)syscall(SYS_clone3, &clone, sizeof clone);
  if (!child) _exit(5);
  return reap("clone3", child);
}

static int at_fork_count;
static void at_fork(void) { at_fork_count++; }
int pthread_atfork(void (*)(void), void (*)(void), void (*)(void));

static int at_forks(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_atfork(at_fork, at_fork, at_fork);
  pid_t child = fork();
  if (!child) _exit(at_fork_count);
  return reap("handlers", child);
}

static int spawns(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("system %d", WEXITSTATUS(system("exit 6")));
  FILE *pipe = popen("echo from popen; exit 7", "r");
  char line[100] = "";
  if (!fgets(line, sizeof line, pipe)) return 1;
  printf("%s", line);
  FACT("pclose %d", WEXITSTATUS(pclose(pipe)));
  pid_t child;
  char *command[] = {(char *)"sh", (char *)"-c", (char *)"echo spawned; exit 8", NULL};
  fflush(stdout);
  int result = posix_spawnp(&child, "sh", NULL, NULL, command, environ);
  reap("spawned", child);
  FACT("posix_spawnp %d", result);
  FACT("no such program: %d", posix_spawn(&child, "/nonexistent", NULL, NULL, command, environ));
  return 0;
}

/* Ends as another program: nothing of the image may survive the exec. */
static int execs(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("before exec");
  fflush(stdout);
  execlp("sh", "sh", "-c", "echo $0 after exec; exit 9", NULL);
  return 1;
}

static int names(int argc, char **argv) {
  (void)argc, (void)argv;
  char text[4096] = "";
  FILE *file = fopen("/proc/self/comm", "r");
  if (!file || !fgets(text, sizeof text, file)) return 1;
  printf("comm %s", text);
  prctl(PR_GET_NAME, text);
  FACT("PR_GET_NAME %s", text);
  file = fopen("/proc/self/cmdline", "r");
  size_t size = file ? fread(text, 1, sizeof text, file) : 0;
  FACT("cmdline %s, %zu bytes more than its first", base_name(text), size - strlen(text));
  return 0;
}

static int own_executable(int argc, char **argv) {
  (void)argc, (void)argv;
  char path[4096] = "";
  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return 1;
  FACT("%s", path);
  char *real = realpath("/proc/self/exe", NULL);
  FACT("%s", real);
  return 0;
}

static int announced;
static void first(void) { FACT("registered first"); }
static void second(void) { FACT("registered second"); }
static void with_status(int status, void *text) { FACT("on_exit %d %s", status, (char *)text); }
__attribute__((destructor)) static void last(void) { if (announced) puts("destructor"); }
__attribute__((destructor(200))) static void very_last(void) { if (announced) puts("destructor 200"); }

static int exits(int argc, char **argv) {
  (void)argc, (void)argv;
  announced = 1;
  atexit(first);
  atexit(second);
  on_exit(with_status, (void *)"argument");
  printf("no newline, flushed at exit ");
  exit(11);
}

static int quick(int argc, char **argv) {
  (void)argc, (void)argv;
  atexit(first);
  at_quick_exit(second);
  FACT("lost: not flushed");
  fflush(stdout);
  printf("this is lost");
  quick_exit(12);
}

static int raw_exit(int argc, char **argv) {
  (void)argc, (void)argv;
  atexit(first);
  printf("this is lost");
  _exit(13);
}

static int buffering(int argc, char **argv) {
  (void)argc, (void)argv;
  printf("buffered ");
  fprintf(stderr, "unbuffered ");
  if (write(STDOUT_FILENO, "raw ", 4) != 4) return 1;
  fflush(stdout);
  setvbuf(stdout, NULL, _IONBF, 0);
  printf("now unbuffered ");
  if (write(STDOUT_FILENO, "raw\n", 4) != 4) return 1;
  char line[64];
  while (fgets(line, sizeof line, stdin)) printf("read %s", line);
  FACT("end of input %d", feof(stdin) != 0);
  return 0;
}

static int descriptors(int argc, char **argv) {
  (void)argc, (void)argv;
  /* A linker that leaves a file open shifts every later descriptor. */
  FACT("first free descriptor %d", open("/dev/null", O_RDONLY));
  for (int fd = 3; fd < 20; fd++) FACT("%d: %d", fd, fcntl(fd, F_GETFD));
  FACT("umask %o, niceness %d", umask(0), getpriority(PRIO_PROCESS, 0));
  FACT("no_new_privs %d, dumpable %d, keepcaps %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
       prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS));
  FACT("seccomp %d, traced by nobody %d", prctl(PR_GET_SECCOMP),
       system("grep -q '^TracerPid:.0$' /proc/$PPID/status"));
  return 0;
}

static int many(int argc, char **argv) {
  size_t length = 0, environment_length = 0;
  unsigned sum = 0;
  for (int i = 0; i < argc; i++)
    for (char *c = argv[i]; *c; c++) length++, sum = sum * 31 + (unsigned char)*c;
  for (char **e = environ; *e; e++) environment_length += strlen(*e);
  FACT("argc %d, %zu bytes, sum %u, environment %zu", argc, length - strlen(argv[0]),
       argc ? sum != 0 : 0, environment_length);
  FACT("last variable %.20s", getenv("LAST") ? getenv("LAST") : "-");
  return 0;
}

BEHAVIOURS({"arguments", arguments}, {"environment", environment}, {"fork", forks},
           {"atfork", at_forks}, {"spawn", spawns}, {"exec", execs}, {"names", names},
           {"own-executable", own_executable}, {"exit", exits}, {"quick-exit", quick},
           {"raw-exit", raw_exit}, {"buffering", buffering}, {"descriptors", descriptors},
           {"many", many})
