/* PART 1 is an allocator whose blocks nobody else's free must see; PART 2 needs it. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#if PART == 1
static char room[1 << 16];
static size_t used;
void *malloc(size_t size) { used += (size + 31) & -16; return room + used - size; }
void free(void *block)
{
    if (block && ((char *)block < room || (char *)block >= room + sizeof room))
        abort();
}
int allocator(void) { return 1; }
#else
int allocator(void);
int work(void)
{
    char *text = strdup("a string of libc's");
    free(text);
    free(realpath("/", NULL));
    void *volatile block = malloc(10);
    free(block);
    return 42 * allocator();
}
#endif
