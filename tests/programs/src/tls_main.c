#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "facts.h"

#define MODEL(name)                   \
  extern __thread int name##_value;   \
  int *name##_address(void);          \
  int name##_sum(void);               \
  int name##_is_aligned(void);
MODEL(gd) MODEL(ld) MODEL(ie) MODEL(desc)

static __thread int own = 5;                  /* local exec */
__thread int exported __attribute__((aligned(64))) = 6;
static __thread char big[8192] = {1, 2, 3};

static void show(const char *who) {
  printf("%s: own %d exported %d big %d", who, own, exported, big[2] + big[8191]);
#define SHOW(name)                                                                     \
  printf(" " #name " %d same %d sum %d aligned %d", name##_value, name##_address() == &name##_value, \
         name##_sum(), name##_is_aligned());
  SHOW(gd) SHOW(ld) SHOW(ie) SHOW(desc)
  putchar('\n');
}

static void *worker(void *number) {
  int base = (int)(long)number * 100;
  own += base, exported += base, gd_value += base, ie_value += base, desc_value += base;
  *ld_address() += base;
  for (int i = 0; i < 1000; i++) gd_sum(), ld_sum(), ie_sum(), desc_sum();
  return NULL;
}

static void *reporter(void *number) {
  worker(number);
  show("thread");
  return NULL;
}

static int in_main(int argc, char **argv) {
  (void)argc, (void)argv;
  show("main");
  show("main again");
  FACT("exported aligned %d", (unsigned long)&exported % 64 == 0);
  return 0;
}

static int in_threads(int argc, char **argv) {
  (void)argc, (void)argv;
  own = 50;
  pthread_t threads[4];
  for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  for (long i = 0; i < 3; i++) {
    pthread_create(&threads[0], NULL, reporter, (void *)i);
    pthread_join(threads[0], NULL);
  }
  show("main");
  return 0;
}

static int after_fork(int argc, char **argv) {
  (void)argc, (void)argv;
  own = 51, gd_value = 52, ie_value = 53, desc_value = 54;
  fflush(stdout);
  pid_t child = fork();
  if (!child) {
    show("child");
    pthread_t thread;
    pthread_create(&thread, NULL, reporter, (void *)1);
    pthread_join(thread, NULL);
    fflush(stdout);
    _exit(3);
  }
  int status;
  waitpid(child, &status, 0);
  FACT("child exited with %d", WEXITSTATUS(status));
  show("parent");
  return 0;
}

static void *use_late(void *sum) {
  FACT("thread: late sum %d", ((int (*)(void))sum)());
  return NULL;
}

/* A library with TLS that arrives after start: dynamic TLS, or static surplus for IE. */
static int late_library(int argc, char **argv) {
  if (argc < 3) return 100;
  void *library = dlopen(argv[2], RTLD_NOW);
  if (!library) return FACT("%s", dlerror()), 1;
  int (*sum)(void) = (int (*)(void))dlsym(library, "late_sum");
  int *value = dlsym(library, "late_value"), *(*address)(void) = dlsym(library, "late_address");
  FACT("late value %d, dlsym gives this thread's %d, sum %d", *value, value == address(), sum());
  pthread_t thread;
  pthread_create(&thread, NULL, use_late, (void *)sum);
  pthread_join(thread, NULL);
  FACT("main: late sum %d", sum());
  FACT("close %d", dlclose(library));
  show("main");
  return 0;
}

BEHAVIOURS({"main", in_main}, {"threads", in_threads}, {"fork", after_fork},
           {"late", late_library})
