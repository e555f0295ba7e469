/* Runs for a while in a library's function, for a debugger or profiler to find it there. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int library_work(int rounds);

static int program_work(int rounds) { return library_work(rounds) + 1; }

int main(int argc, char **argv) {
  int seconds = argc > 1 ? atoi(argv[1]) : 20, sum = 0;
  struct timespec now, end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += seconds;
  puts("ready");
  fflush(stdout);
  do {
    sum += program_work(argc > 2 ? 2000000 : 10);
    if (argc <= 2) usleep(1000);
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
  return sum == 42;
}
