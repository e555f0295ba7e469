#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include "facts.h"

int counter_next(void);
int seen_by_constructor(void);

typedef int (*get)(void);

static void *open_or_say(const char *name, int flags) {
  void *library = dlopen(name, flags);
  if (!library) FACT("error: %s", base_name(dlerror()));
  return library;
}

static int objects(void) {
  struct link_map *map;
  int count = 0;
  void *self = dlopen(NULL, RTLD_LAZY);
  for (dlinfo(self, RTLD_DI_LINKMAP, &map); map; map = map->l_next) count++;
  return count;
}

static int plugin(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("counter %d", counter_next());
  void *library = open_or_say("libplugin.so", RTLD_NOW | RTLD_LOCAL);
  if (!library) return 1;
  FACT("the plug-in shares the counter: %d", ((get)dlsym(library, "plugin_next"))());
  FACT("counter %d", counter_next());
  FACT("dlclose %d", dlclose(library));
  return 0;
}

static int noload(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("absent: %d", dlopen("libplugin.so", RTLD_NOW | RTLD_NOLOAD) == NULL);
  FACT("needed library: %d", dlopen("libcounter.so", RTLD_NOW | RTLD_NOLOAD) != NULL);
  FACT("libc: %d", dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD) != NULL);
  FACT("ld.so: %d", dlopen("ld-linux-x86-64.so.2", RTLD_NOW | RTLD_NOLOAD) != NULL);
  void *library = open_or_say("libplugin.so", RTLD_NOW);
  FACT("same handle: %d", library == dlopen("libplugin.so", RTLD_NOW | RTLD_NOLOAD));
  return 0;
}

static int global(int argc, char **argv) {
  (void)argc, (void)argv;
  open_or_say("libprovider.so", RTLD_NOW | RTLD_LOCAL);
  FACT("local is invisible: %d", dlsym(RTLD_DEFAULT, "provided_later") == NULL);
  open_or_say("libprovider.so", RTLD_NOW | RTLD_GLOBAL);
  FACT("promoted to global: %d", dlsym(RTLD_DEFAULT, "provided_later") != NULL);
  void *library = open_or_say("libplugin.so", RTLD_NOW);
  if (!library) return 1;
  FACT("the plug-in binds to it: %d", ((get)dlsym(library, "plugin_has_provider"))());
  return 0;
}

static int lifetime(int argc, char **argv) {
  (void)argc, (void)argv;
  int before = objects();
  void *library = open_or_say("libplugin.so", RTLD_NOW), *again = open_or_say("libplugin.so", RTLD_NOW);
  FACT("one handle %d, objects +%d", library == again, objects() - before);
  *(int *)dlsym(library, "plugin_value") = 18;
  FACT("first close %d", dlclose(library));
  FACT("still there %d", *(int *)dlsym(again, "plugin_value"));
  FACT("last close %d", dlclose(again));
  FACT("gone %d", dlopen("libplugin.so", RTLD_NOW | RTLD_NOLOAD) == NULL);
  FACT("objects +%d", objects() - before);
  library = open_or_say("libplugin.so", RTLD_NOW);
  FACT("fresh copy: %d", *(int *)dlsym(library, "plugin_value"));
  for (int i = 0; i < 200; i++) {
    void *provider = dlopen("libprovider.so", RTLD_LAZY);
    if (!provider || dlclose(provider)) return FACT("failed at %d", i), 1;
  }
  FACT("nodelete %d", open_or_say("libprovider.so", RTLD_NOW | RTLD_NODELETE) != NULL);
  return 0;
}

static int new_namespace(int argc, char **argv) {
  (void)argc, (void)argv;
  counter_next();
  void *library = dlmopen(LM_ID_NEWLM, "libcounter.so", RTLD_NOW | RTLD_LOCAL);
  if (!library) return FACT("%s", dlerror()), 1;
  Lmid_t where;
  dlinfo(library, RTLD_DI_LMID, &where);
  FACT("namespace %ld", (long)where);
  FACT("its own counter %d", ((get)dlsym(library, "counter_next"))());
  FACT("ours %d", counter_next());
  fflush(stdout);
  FACT("close %d", dlclose(library));
  return 0;
}

static int constructor(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("seen %d", seen_by_constructor());
  return 0;
}

static int origin(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("$ORIGIN: %d", open_or_say("$ORIGIN/libplugin.so", RTLD_NOW) != NULL);
  FACT("${ORIGIN}: %d", open_or_say("${ORIGIN}/libprovider.so", RTLD_NOW) != NULL);
  return 0;
}

static void say_error(const void *result) {
  const char *text = dlerror();
  FACT("%d %s", result == NULL, text ? text : "(none)");
}

static int errors(int argc, char **argv) {
  (void)argc, (void)argv;
  say_error(dlopen("libabsent.so.9", RTLD_NOW));
  FACT("no second error: %d", dlerror() == NULL);
  say_error(dlsym(RTLD_DEFAULT, "absent_symbol"));
  say_error(dlopen("/dev/null", RTLD_NOW));
  say_error(dlopen("/", RTLD_NOW));
  say_error(dlopen("/etc/passwd", RTLD_NOW));
  say_error(dlvsym(RTLD_DEFAULT, "malloc", "GLIBC_9.9"));
  return 0;
}

static int symbols(int argc, char **argv) {
  (void)argc, (void)argv;
  void *self = dlopen(NULL, RTLD_NOW);
  FACT("own function %d", dlsym(self, "main") == dlsym(RTLD_DEFAULT, "main"));
  FACT("malloc %d", dlsym(RTLD_DEFAULT, "malloc") == (void *)malloc);
  FACT("versioned %d", dlvsym(RTLD_DEFAULT, "malloc", "GLIBC_2.2.5") == (void *)malloc);
  void *libc = dlopen("libc.so.6", RTLD_NOW);
  FACT("old and new memcpy differ: %d",
       dlvsym(libc, "memcpy", "GLIBC_2.2.5") != dlvsym(libc, "memcpy", "GLIBC_2.14"));
  FACT("IFUNC through dlsym: %zu", ((size_t(*)(const char *))dlsym(libc, "strlen"))("four"));
  FACT("time is a vDSO function: %d", ((long (*)(long *))dlsym(libc, "time"))(NULL) > 0);
  int *(*location)(void) = (int *(*)(void))dlsym(libc, "__errno_location");
  FACT("errno %d", location() == &errno);
  void *libm = dlopen("libm.so.6", RTLD_NOW);
  FACT("libm %.3f", libm ? ((double (*)(double))dlsym(libm, "cos"))(1.0) : -1);
  return 0;
}

static void *open_in_thread(void *name) {
  void *library = dlopen(name, RTLD_NOW);
  return library ? dlsym(library, "provided_later") : NULL;
}

static int in_threads(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_t threads[8];
  void *results[8];
  for (int i = 0; i < 8; i++)
    pthread_create(&threads[i], NULL, open_in_thread, (void *)"libprovider.so");
  for (int i = 0; i < 8; i++) pthread_join(threads[i], &results[i]);
  int same = 0;
  for (int i = 0; i < 8; i++) same += results[i] && results[i] == results[0];
  FACT("%d threads agree", same);
  return 0;
}

static int paths(int argc, char **argv) {
  (void)argc, (void)argv;
  char origin[4096];
  void *self = dlopen(NULL, RTLD_NOW), *counter = dlopen("libcounter.so", RTLD_NOW);
  FACT("origin %d", dlinfo(counter, RTLD_DI_ORIGIN, origin));
  FACT("of a library: %s", base_name(origin));
  Dl_serinfo size, *paths;
  dlinfo(self, RTLD_DI_SERINFOSIZE, &size);
  paths = malloc(size.dls_size);
  dlinfo(self, RTLD_DI_SERINFOSIZE, paths);
  FACT("search path %d", dlinfo(self, RTLD_DI_SERINFO, paths));
  for (unsigned i = 0; i < paths->dls_cnt; i++) FACT("  %s", paths->dls_serpath[i].dls_name);
  size_t tls;
  void *libc = dlopen("libc.so.6", RTLD_NOW);
  FACT("TLS module %d", dlinfo(libc, RTLD_DI_TLS_MODID, &tls));
  FACT("number %zu", tls);
  return 0;
}

BEHAVIOURS({"plugin", plugin}, {"noload", noload}, {"global", global}, {"lifetime", lifetime},
           {"namespace", new_namespace}, {"constructor", constructor}, {"origin", origin},
           {"errors", errors}, {"symbols", symbols}, {"threads", in_threads}, {"paths", paths})
