#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "facts.h"

static void say(const char *what, const char *path, ssize_t length) {
  if (length < 0)
    FACT("%s: error %d", what, errno);
  else
    FACT("%s: %.*s", what, (int)length, path);
}

/* What a library that is opened at run time hears about the program's file. */
int ask(void) {
  char path[400], own[40];
  snprintf(own, sizeof own, "/proc/%d/exe", (int)getpid());
  say("readlink", path, readlink("/proc/self/exe", path, sizeof path));
  say("by number", path, readlink(own, path, sizeof path));
  say("short", path, readlink("/proc/self/exe", path, 3));
  say("readlinkat", path, readlinkat(AT_FDCWD, "/proc/self/exe", path, sizeof path));
  char *real = realpath("/proc/self/exe", NULL);
  FACT("realpath: %s", real ? real : "none");
  free(real);
  say("another link", path, readlink("/proc/self/cwd", path, sizeof path));
  say("no link", path, readlink("/proc", path, sizeof path));
  say("nothing", path, readlinkat(AT_FDCWD, "/proc/self/exf", path, sizeof path));
  say("no path", path, readlink(NULL, path, sizeof path));
  say("no room", path, readlinkat(AT_FDCWD, "/proc/self/exe", path, 0));
  return 0;
}
