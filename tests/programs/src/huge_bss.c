/* A gigabyte of zeroes that must cost neither file size nor memory. */
#include <stdio.h>

static char huge[1ul << 30];
static char more[1ul << 20] = {1};

int main(void) {
  char line[200];
  long resident = 0; /* kB */
  huge[sizeof huge / 2] = huge[sizeof huge - 1] = 1;
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) sscanf(line, "VmRSS: %ld", &resident);
  printf("%d %d %d, small in memory %d\n", huge[0], huge[sizeof huge / 2], more[0],
         resident && resident < 64 * 1024);
  return 0;
}
