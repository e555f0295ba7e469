/* A gigabyte of zeroes that must cost neither file size nor memory. */
#include <stdio.h>
#include <sys/resource.h>

static char huge[1ul << 30];
static char more[1ul << 20] = {1};

int main(void) {
  struct rusage usage;
  huge[sizeof huge / 2] = huge[sizeof huge - 1] = 1;
  getrusage(RUSAGE_SELF, &usage);
  printf("%d %d %d, small in memory %d\n", huge[0], huge[sizeof huge / 2], more[0],
         usage.ru_maxrss < 64 * 1024);
  return 0;
}
