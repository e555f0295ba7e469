/* A program with data of its own library, a function of its own in the place of another's, and an
   import of many kinds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern int policy_number;
int policy_call(void);

#ifdef INTERPOSES
int policy_inner(void)
{
    return 1000;
}
#endif

int main(void)
{
    FILE *out = stdout;
    void *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fprintf(out, "%d %d %d\n", policy_number, policy_call(), page != MAP_FAILED);
    return 0;
}
