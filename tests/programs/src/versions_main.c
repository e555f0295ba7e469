#define _GNU_SOURCE
#include <dlfcn.h>

#include "facts.h"

int answer(void);
extern int only_old(void) __attribute__((weak));

static void look(const char *name, const char *version) {
  int (*function)(void) = (int (*)(void))(version ? dlvsym(RTLD_DEFAULT, name, version)
                                                  : dlsym(RTLD_DEFAULT, name));
  FACT("%s@%s: %d", name, version ? version : "", function ? function() : -1);
}

int main(void) {
  FACT("answer %d", answer());
  FACT("only_old %d", only_old ? only_old() : -1);
  look("answer", NULL);
  look("answer", "V1");
  look("answer", "V2");
  look("answer", "V3");
  look("only_old", NULL);
  look("only_old", "V1");
  return 0;
}
