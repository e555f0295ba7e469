/* A library for a capsule: it exports every kind of symbol, and uses everything of libc's that a
   process has once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern int value(void), value_data;
extern __thread int value_tls;
extern int nobody_has_it(void) __attribute__((weak));
extern int programs_own(void) __attribute__((weak));
extern char **environ;

int cap_data = 7;
int *cap_data_address = &cap_data;
const char cap_text[] = "text of the capsule";
__thread int cap_tls = 5;
static int started_argc, started_environment;
static const char *started_name;

__attribute__((constructor)) static void construct(int argc, char **argv, char **envp) {
  started_argc = argc;
  started_name = argv[0];
  started_environment = envp == environ;
}

int cap_value(void) { return 100 * value() + 10 * value_data + value_tls; }
int cap_started(void) { return started_argc * 10 + (started_name && *started_name) + started_environment; }

static int is_data(void) { return *cap_data_address == cap_data; }
int cap_read_data(void) { return is_data() ? cap_data : -1; }
void cap_write_data(int value) { cap_data = value; }
int *cap_where_data(void) { return &cap_data; }
int *cap_where_tls(void) { return &cap_tls; }
int cap_add_tls(int more) { return cap_tls += more; }

static int chosen(void) { return 64; }
static int (*choose(void))(void) { return chosen; }
int cap_indirect(void) __attribute__((ifunc("choose")));
static int cap_inner(void) __attribute__((ifunc("choose")));
int cap_call_inner(void) { return cap_inner() + cap_indirect(); }
int (*cap_indirect_address)(void) = cap_indirect;

int cap_sees_nobody(void) { return nobody_has_it ? 1 : 0; }
int cap_sees_program(void) { return programs_own ? programs_own() : 0; }

/* The program has a function of this name too: each calls its own. */
int same_name(void) { return 2; }
int cap_same_name(void) { return same_name(); }

char *cap_copy(const char *text) { return strdup(text); }
void cap_free(void *pointer) { free(pointer); }
const char *cap_variable(const char *name) { return getenv(name); }
void cap_set_variable(const char *name, const char *to) { setenv(name, to, 1); }
char **cap_environ(void) { return environ; }
int *cap_errno(void) { return &errno; }
int cap_fail(void) { return close(-1); }
void cap_print(const char *text) { printf("capsule: %s\n", text); }
FILE *cap_stdout(void) { return stdout; }

static volatile sig_atomic_t caught;
static void handler(int number) { caught = number; }
int cap_signal(void) {
  signal(SIGUSR1, handler);
  raise(SIGUSR1);
  return caught;
}

static void *in_thread(void *argument) {
  cap_tls += *(int *)argument;
  return (void *)(long)(cap_tls * 1000 + value_tls);
}
long cap_thread(int more) {
  pthread_t thread;
  void *result = 0;
  pthread_create(&thread, 0, in_thread, &more);
  pthread_join(thread, &result);
  return (long)result;
}

int cap_fork(void) {
  int status = 0;
  pid_t child = fork();
  if (!child) _exit(cap_value() % 100);
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

static int forked;
static void prepare(void) { forked++; }
void cap_at_fork(void) { pthread_atfork(prepare, prepare, prepare); }
int cap_forked(void) { return forked; }

int cap_call(int (*function)(int), int argument) { return function(argument); }
static void leaving(void) { puts("capsule: atexit"); }
void cap_at_exit(void) { atexit(leaving); }
__attribute__((destructor)) static void destruct(void) { puts("capsule: destructor"); }
