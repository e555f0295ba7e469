#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "facts.h"

static char bss[1 << 20];
static int data = 4;

static int allocation(int argc, char **argv) {
  (void)argc, (void)argv;
  enum { BLOCKS = 2000, SIZE = 100000 }; /* 200 MB below the mmap threshold: brk grows */
  static char *blocks[BLOCKS];
  long sum = 0;
  for (int i = 0; i < BLOCKS; i++) memset(blocks[i] = malloc(SIZE), i, SIZE);
  for (int i = 0; i < BLOCKS; i++) sum += blocks[i][SIZE - 1] == (char)i;
  FACT("blocks intact %ld", sum);
  for (int i = 0; i < BLOCKS; i += 2) free(blocks[i]);
  for (int i = 0; i < BLOCKS; i += 2) blocks[i] = calloc(1, SIZE * 2);
  for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
  FACT("trim %d", malloc_trim(0));
  char *big = malloc(300 << 20);
  big[(300 << 20) - 1] = 1;
  big = realloc(big, 400 << 20);
  FACT("grown in place or moved, content kept %d", big[(300 << 20) - 1]);
  free(big);
  FACT("aligned %d", (uintptr_t)aligned_alloc(4096, 8192) % 4096 == 0);
  return 0;
}

static int program_break(int argc, char **argv) {
  (void)argc, (void)argv;
  /* No output in between: stdio's buffer would move the break. */
  char *start = sbrk(0), *grown = sbrk(200 << 20), *end = sbrk(0);
  start[(200 << 20) - 1] = 7;
  int zero = start[4096] == 0, shrunk = brk(start);
  char *after = sbrk(0);
  FACT("grown from the start %d, to the end %d, zero filled %d", grown == start,
       end - start == 200 << 20, zero);
  FACT("shrink %d, back %d", shrunk, after == start);
  FACT("malloc after that %d", malloc(100) != NULL);
  return 0;
}

static int permission(const void *address, char *out) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[5000];
  unsigned long from, to;
  while (fgets(line, sizeof line, maps))
    if (sscanf(line, "%lx-%lx %4s", &from, &to, out) == 3 && from <= (unsigned long)address &&
        (unsigned long)address < to)
      return fclose(maps), 1;
  fclose(maps);
  return 0;
}

static void show(const char *what, const void *address) {
  char text[5] = "none";
  permission(address, text);
  FACT("%s %s", what, text);
}

extern char _DYNAMIC[], __ehdr_start[];

static int permissions(int argc, char **argv) {
  (void)argc;
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[5000], mode[5];
  int writable_code = 0, stack = 0, heap = 0, vdso = 0;
  free(malloc(1));
  while (fgets(line, sizeof line, maps)) {
    sscanf(line, "%*s %4s", mode);
    writable_code += mode[1] == 'w' && mode[2] == 'x';
    stack += strstr(line, "[stack]") && !strcmp(mode, "rw-p");
    heap += strstr(line, "[heap]") != NULL;
    vdso += strstr(line, "[vdso]") != NULL;
  }
  FACT("writable and executable %d, stack %d, heap %d, vdso %d", writable_code, stack, heap, vdso);
  show("header", __ehdr_start);
  show("code", (void *)permissions);
  show("constant", "text");
  show("data", &data);
  show("bss", bss + sizeof bss / 2);
  show("relro", _DYNAMIC);
  show("stack", argv);
  show("libc code", (void *)(uintptr_t)malloc);
  return 0;
}

static int mappings(int argc, char **argv) {
  (void)argc, (void)argv;
  char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  page[0] = (char)0xc3; /* ret */
  FACT("protect %d", mprotect(page, 4096, PROT_READ | PROT_EXEC));
  ((void (*)(void))(uintptr_t)page)();
  FACT("returned, unmap %d", munmap(page, 4096));
  char *fixed = mmap((void *)0x10000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  FACT("low memory is free %d", fixed == (void *)0x10000);
  char *low = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  FACT("32-bit mapping %d", low != MAP_FAILED && (uintptr_t)low < 1ul << 32);
  void *huge = mmap(NULL, 1ul << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  FACT("1 TB reservation %d", huge != MAP_FAILED);
  return 0;
}

/* Data limits: an image must not count for more than the program does. */
static int limits(int argc, char **argv) {
  (void)argc, (void)argv;
  static const int which[] = {RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_CORE};
  for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
    struct rlimit limit;
    getrlimit(which[i], &limit);
    FACT("%d: %ld %ld", which[i], (long)limit.rlim_cur, (long)limit.rlim_max);
  }
  for (size_t i = 0; i < sizeof bss; i += 4096)
    if (bss[i]) return 1;
  return 0;
}

BEHAVIOURS({"allocation", allocation}, {"break", program_break}, {"permissions", permissions},
           {"mappings", mappings}, {"limits", limits})
