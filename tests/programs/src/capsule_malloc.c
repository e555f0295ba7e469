/* A malloc of the program's own, which everybody must use: it marks what it gives out. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { MARK = 0x5e1f };

void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *pointer);

struct head {
  size_t mark, size, before, pad;
};

void *memalign(size_t align, size_t size) {
  size_t before = align > sizeof(struct head) ? align : sizeof(struct head);
  char *start = __libc_memalign(before, size + before);
  if (!start) return NULL;
  struct head *head = (struct head *)(start + before) - 1;
  *head = (struct head){MARK, size, before, 0};
  return head + 1;
}

void free(void *pointer) {
  static const char text[] = "free of what this malloc did not give\n";
  struct head *head = (struct head *)pointer - 1;
  if (!pointer) return;
  if (head->mark != MARK) {
    if (write(2, text, sizeof text - 1) < 0) _exit(98);
    _exit(99);
  }
  head->mark = 0;
  __libc_free((char *)pointer - head->before);
}

void *malloc(size_t size) { return memalign(16, size); }
void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }

int posix_memalign(void **pointer, size_t align, size_t size) {
  void *got = memalign(align, size);
  return got ? (*pointer = got, 0) : ENOMEM;
}

void *calloc(size_t count, size_t size) {
  size_t whole;
  if (__builtin_mul_overflow(count, size, &whole)) return NULL;
  void *pointer = malloc(whole);
  return pointer ? memset(pointer, 0, whole) : NULL;
}

void *realloc(void *old, size_t size) {
  void *pointer = malloc(size);
  if (old && pointer) {
    size_t had = ((struct head *)old - 1)->size;
    memcpy(pointer, old, had < size ? had : size);
    free(old);
  }
  return pointer;
}
