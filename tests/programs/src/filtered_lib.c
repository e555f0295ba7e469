/* A library whose constructor makes a call that no analysis can see. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

__attribute__((constructor)) static void construct(void)
{
    unsigned char code[] = {0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x0f, 0x05, 0xc3};
    const char *path = getenv("CONSTRUCTED");
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    memcpy(page, code, sizeof code);
    if (path)
        printf("constructed %ld\n", ((long (*)(long, const char *, long))page)(133, path, 0100600));
    fflush(stdout);
}

int in_library(void)
{
    return 1;
}
