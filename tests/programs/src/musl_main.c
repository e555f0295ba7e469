#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <locale.h>
#include <pthread.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "facts.h"

extern char **environ, _start[];
extern __thread int gd_value;
int gd_sum(void), counter_next(void);
static __thread int own = 3;

static void *work(void *number) {
  own += (int)(long)number;
  for (int i = 0; i < 1000; i++) free(malloc((size_t)i * 10 + 1)), gd_sum();
  return (void *)(long)(own + gd_value);
}

static int threads(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_t all[4];
  long total = 0;
  void *result;
  for (long i = 0; i < 4; i++) pthread_create(&all[i], NULL, work, (void *)i);
  for (int i = 0; i < 4; i++) pthread_join(all[i], &result), total += (long)result;
  FACT("total %ld, own %d, library %d", total, own, gd_sum());
  return 0;
}

static int library(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("counter %d", counter_next());
  void *plugin = dlopen("libplugin.so", RTLD_NOW);
  if (!plugin) return FACT("%s", dlerror()), 1;
  FACT("shared %d", ((int (*)(void))dlsym(plugin, "plugin_next"))());
  FACT("close %d", dlclose(plugin));
  FACT("own symbol %d", dlsym(RTLD_DEFAULT, "counter_next") != NULL);
  FACT("absent %d", dlopen("libabsent.so", RTLD_NOW) == NULL);
  Dl_info info;
  FACT("dladdr %d", dladdr((void *)counter_next, &info));
  FACT("found in %s", base_name(info.dli_fname));
  return 0;
}

static int show(struct dl_phdr_info *info, size_t size, void *count) {
  (void)size, ++*(int *)count;
  FACT("'%s' phnum %d", base_name(info->dlpi_name), info->dlpi_phnum);
  return 0;
}

static int objects(int argc, char **argv) {
  (void)argc, (void)argv;
  int count = 0;
  dl_iterate_phdr(show, &count);
  FACT("objects %d, entry %d, base %d", count, getauxval(AT_ENTRY) == (unsigned long)_start,
       getauxval(AT_BASE) != 0);
  return 0;
}

static int memory(int argc, char **argv) {
  (void)argc, (void)argv;
  static char *blocks[1000];
  int intact = 0;
  for (int i = 0; i < 1000; i++) memset(blocks[i] = malloc(50000), i, 50000);
  for (int i = 0; i < 1000; i++) intact += blocks[i][49999] == (char)i, free(blocks[i]);
  FACT("intact %d", intact);
  char *big = realloc(calloc(1, 100 << 20), 200 << 20);
  FACT("big %d", big && !big[5]);
  return 0;
}

static int process(int argc, char **argv) {
  FACT("argc %d, %s, PATH %d, %s", argc, base_name(argv[0]), getenv("PATH") != NULL,
       getenv("GIVEN") ? getenv("GIVEN") : "-");
  setenv("ADDED", "yes", 1);
  fflush(stdout);
  FACT("system %d", WEXITSTATUS(system("test \"$ADDED\" = yes && exit 4")));
  fflush(stdout);
  pid_t child = fork();
  if (!child) _exit(5);
  int status;
  waitpid(child, &status, 0);
  FACT("child %d", WEXITSTATUS(status));
  struct passwd *root = getpwnam("root");
  FACT("root %s", root ? root->pw_dir : "-");
  FACT("locale %s", setlocale(LC_ALL, ""));
  FACT("time %d", time(NULL) > 1600000000);
  return 0;
}

static sigjmp_buf back;
static void recover(int signal) { siglongjmp(back, signal); }

static int signals(int argc, char **argv) {
  (void)argc, (void)argv;
  signal(SIGSEGV, recover);
  int number = sigsetjmp(back, 1);
  if (!number) *(volatile int *)8 = 1;
  FACT("recovered from %d", number);
  return 0;
}

static void finish(void) { FACT("atexit"); }
static int stack(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_attr_t attributes;
  size_t size;
  void *address;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &address, &size);
  FACT("inside %d", (char *)&size >= (char *)address && (char *)&size < (char *)address + size);
  pthread_attr_init(&attributes);
  pthread_attr_getstacksize(&attributes, &size);
  FACT("default %zu", size);
  atexit(finish);
  return 6;
}

BEHAVIOURS({"threads", threads}, {"library", library}, {"objects", objects}, {"memory", memory},
           {"process", process}, {"signals", signals}, {"stack", stack})
