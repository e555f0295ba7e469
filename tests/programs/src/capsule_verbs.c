/* The functions of <dlfcn.h>, called from where this file is linked into: the program or a library
   of a capsule.  VERB is the function's name; it runs one word with its arguments and gives their
   number. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <iconv.h>
#include <link.h>
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <wchar.h>
#include <locale.h>

#include "facts.h"

extern int value(void);

static void *handle;
static const char *looped;
static int rounds;

#ifdef OPENS_AT_START
__attribute__((constructor)) static void construct(void) {
  handle = dlopen(OPENS_AT_START, RTLD_NOW);
  if (!handle) puts(dlerror());
}
#endif

#ifdef AT_END
__attribute__((destructor)) static void destruct(void) {
  void *other = handle ? dlopen("libplug.so", RTLD_NOW) : 0;
  int (*function)(void) = other ? (int (*)(void))dlsym(other, "through") : 0;
  if (handle) FACT("  at the end %d, closed %d", function ? function() : -1, dlclose(handle));
}
#endif

static void call(void *function) {
  if (function)
    FACT("  %d", ((int (*)(void))function)());
  else
    FACT("  nothing: %s", dlerror() ? "an error" : "no error");
}

static int each(struct dl_phdr_info *info, size_t size, void *unused) {
  if (*info->dlpi_name && info->dlpi_name[0] == '/') FACT("  %s", base_name(info->dlpi_name));
  return 0;
}

static int count(struct dl_phdr_info *info, size_t size, void *number) { return ++*(int *)number, 0; }

static void *again(void *unused) {
  long wrong = 0;
  for (int i = 0; i < rounds; i++) {
    void *one = dlopen(looped, i % 2 ? RTLD_NOW : RTLD_LAZY);
    int (*function)(void) = one ? (int (*)(void))dlsym(one, "through") : 0;
    if (!function || function() != value()) wrong++;
    if (one && dlclose(one)) wrong++;
  }
  return (void *)wrong;
}

static void loop(int threads) {
  pthread_t thread[8];
  long wrong = 0;
  for (int i = 0; i < threads; i++) pthread_create(&thread[i], 0, again, 0);
  for (int i = 0; i < threads; i++) {
    void *result;
    pthread_join(thread[i], &result);
    wrong += (long)result;
  }
  FACT("  %ld wrong", wrong);
}

static void names(void) {
  struct addrinfo *found = 0, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
  FACT("  user %d", getpwnam("root") && getpwuid(0));
  FACT("  group %d", getgrgid(0) != 0);
  FACT("  address %d", getaddrinfo("127.0.0.1", "80", &hints, &found));
  FACT("  name %d", getaddrinfo("localhost", 0, &hints, &found) == 0 && found);
  iconv_t to = iconv_open("ISO-8859-7", "UTF-8");
  char text[] = "\xce\xb1", out[4] = {0}, *in = text, *at = out;
  size_t left = sizeof text, room = sizeof out;
  size_t result = to == (iconv_t)-1 ? 1 : iconv(to, &in, &left, &at, &room);
  FACT("  iconv %d %d", result == 0, (unsigned char)out[0]);
}

static void where(void *address) {
  Dl_info info;
  struct link_map *map = 0;
  Lmid_t space = -1;
  char origin[4096] = "";
  if (!dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP)) {
    FACT("  nowhere");
    return;
  }
  FACT("  %s %s %s", base_name(info.dli_fname), info.dli_sname, base_name(map->l_name));
  if (handle) {
    dlinfo(handle, RTLD_DI_LMID, &space);
    dlinfo(handle, RTLD_DI_ORIGIN, origin);
    FACT("  in the program's namespace %d, origin %s", !space, base_name(origin));
  }
}

int VERB(char **word) {
  const char *name = word[0], *one = word[1];
  FACT("%s %s %s", PLACE, name, one ? base_name(one) : "");
  if (!strcmp(name, "value")) return FACT("  %d", value()), 0;
  if (!strcmp(name, "names")) return names(), 0;
  if (!strcmp(name, "phdr")) return dl_iterate_phdr(each, 0), 0;
  if (!strcmp(name, "close")) return FACT("  %d", dlclose(handle)), handle = 0, 0;
  if (!strcmp(name, "default")) return call(dlsym(RTLD_DEFAULT, one)), 1;
  if (!strcmp(name, "next")) return call(dlsym(RTLD_NEXT, one)), 1;
  if (!strcmp(name, "call")) return call(dlsym(handle, one)), 1;
  if (!strcmp(name, "has")) return FACT("  %d", dlsym(handle, one) == dlsym(RTLD_DEFAULT, one)), 1;
  if (!strcmp(name, "where")) return where(dlsym(handle ? handle : RTLD_DEFAULT, one)), 1;
  if (!strcmp(name, "loop") || !strcmp(name, "threads")) {
    int before = 0, after = 0;
    looped = one;
    rounds = atoi(word[2]);
    dl_iterate_phdr(count, &before);
    loop(name[0] == 't' ? 4 : 1);
    dl_iterate_phdr(count, &after);
    return FACT("  %d more objects", after - before), 2;
  }
  if (!strcmp(name, "self")) return handle = dlopen(0, RTLD_NOW), FACT("  %d", handle != 0), 0;
  int mode = RTLD_NOW;
  if (!strcmp(name, "global")) mode |= RTLD_GLOBAL;
  if (!strcmp(name, "there")) mode |= RTLD_NOLOAD;
  if (!strcmp(name, "new") || !strcmp(name, "base"))
    handle = dlmopen(name[0] == 'n' ? LM_ID_NEWLM : LM_ID_BASE, one, RTLD_NOW);
  else
    handle = dlopen(one, mode);
  const char *error = handle ? 0 : dlerror();
  FACT("  opened %d %s", handle != 0, error ? error : "");
  return 1;
}
