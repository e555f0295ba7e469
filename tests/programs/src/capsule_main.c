/* A program with a library from a capsule, and with a libvalue.so of its own of the same names as
   the capsule's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "facts.h"

extern int value(void), value_data;
extern __thread int value_tls, cap_tls;
extern int only_in_new(void) __attribute__((weak));
extern char **environ;
extern int cap_data;
extern int *cap_data_address;
extern const char cap_text[];
int cap_value(void), cap_started(void), cap_read_data(void), cap_add_tls(int), cap_indirect(void);
int cap_call_inner(void), cap_sees_nobody(void), cap_sees_program(void), cap_same_name(void);
extern int (*cap_indirect_address)(void);
void cap_write_data(int), cap_free(void *), cap_set_variable(const char *, const char *);
void cap_print(const char *), cap_at_exit(void), cap_at_fork(void);
int *cap_where_data(void), *cap_where_tls(void), *cap_errno(void);
char *cap_copy(const char *), **cap_environ(void);
const char *cap_variable(const char *);
int cap_fail(void), cap_signal(void), cap_fork(void), cap_forked(void), cap_call(int (*)(int), int);
long cap_thread(int);
FILE *cap_stdout(void);

int same_name(void) { return 1; }
int programs_own(void) { return 1; }

static int versions(int argc, char **argv) {
  FACT("program has %d %d %d", value(), value_data, value_tls);
  FACT("capsule has %d", cap_value());
  FACT("program sees what only the capsule's has: %d", only_in_new != 0);
  FACT("capsule sees what only the program has: %d", cap_sees_program());
  FACT("same name %d %d", same_name(), cap_same_name());
  FACT("in a thread %ld", cap_thread(1));
  FACT("in a child %d", cap_fork());
  return 0;
}

static int start(int argc, char **argv) {
  FACT("constructor's arguments %d", cap_started());
  return 0;
}

static int data(int argc, char **argv) {
  FACT("one address %d %d", &cap_data == cap_where_data(), cap_data_address == &cap_data);
  FACT("data %d %d", cap_data, cap_read_data());
  cap_write_data(8);
  FACT("data %d %d", cap_data, cap_read_data());
  cap_data = 9;
  FACT("data %d %d", cap_data, cap_read_data());
  FACT("%s", cap_text);
  return 0;
}

static void *other_thread(void *unused) {
  FACT("another thread's %d %d", cap_tls, &cap_tls == cap_where_tls());
  cap_add_tls(40);
  return (void *)(long)cap_tls;
}

static int thread_locals(int argc, char **argv) {
  pthread_t thread;
  void *result;
  FACT("thread-local %d %d", cap_tls, &cap_tls == cap_where_tls());
  cap_tls = 6;
  FACT("thread-local %d %d", cap_add_tls(2), cap_tls);
  pthread_create(&thread, 0, other_thread, 0);
  pthread_join(thread, &result);
  FACT("afterwards %ld %d", (long)result, cap_tls);
  return 0;
}

static int functions(int argc, char **argv) {
  FACT("indirect %d %d %d", cap_indirect(), cap_call_inner(), cap_indirect_address());
  FACT("one address %d", cap_indirect_address == cap_indirect);
  FACT("dlsym %d", ((int (*)(void))dlsym(RTLD_DEFAULT, "cap_indirect"))());
  FACT("weak %d", cap_sees_nobody());
  return 0;
}

static jmp_buf point;
static int twice(int number) { return 2 * number; }
static int leap(int number) { longjmp(point, number); }

static int shared(int argc, char **argv) {
  char *copy = cap_copy("from the capsule's malloc"), *own = strdup("from the program's");
  FACT("%s", copy);
  free(copy);
  cap_free(own);
  FACT("errno %d %d %d", &errno == cap_errno(), cap_fail(), errno == EBADF);
  setenv("SET_BY", "program", 1);
  FACT("getenv %s", cap_variable("SET_BY"));
  cap_set_variable("SET_BY", "capsule");
  FACT("getenv %s", getenv("SET_BY"));
  FACT("environ %d", environ == cap_environ());
  printf("one ");
  cap_print("two");
  FACT("stdout %d", stdout == cap_stdout());
  FACT("signal %d", cap_signal() == SIGUSR1);
  FACT("called back %d", cap_call(twice, 21));
  int jumped = setjmp(point);
  FACT("jumped %d", jumped ? jumped : cap_call(leap, 3));
  cap_at_fork();
  if (!fork()) _exit(0);
  wait(0);
  FACT("at fork %d", cap_forked());
  cap_at_exit();
  return 0;
}

/* Arguments: a library, then symbols. Which are found, and is what the program calls the same? */
static int looks(int argc, char **argv) {
  void *handle = dlopen(argv[2], RTLD_NOW | RTLD_NOLOAD);
  FACT("there already %d", handle != 0);
  if (!handle && !(handle = dlopen(argv[2], RTLD_NOW))) return FACT("%s", dlerror()), 0;
  for (int i = 3; i < argc; i++) {
    void *by_handle = dlsym(handle, argv[i]), *by_default = dlsym(RTLD_DEFAULT, argv[i]);
    FACT("%s: handle %d, default %d, same %d", argv[i], by_handle != 0, by_default != 0,
         by_handle == by_default);
    Dl_info info;
    if (by_handle && dladdr(by_handle, &info))
      FACT("  in %s as %s", base_name(info.dli_fname), info.dli_sname ? info.dli_sname : "nothing");
  }
  FACT("closed %d", dlclose(handle));
  return 0;
}

BEHAVIOURS({"versions", versions}, {"start", start}, {"data", data}, {"tls", thread_locals},
           {"functions", functions}, {"shared", shared}, {"looks", looks})
