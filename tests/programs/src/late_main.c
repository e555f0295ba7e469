/* A weak function that nobody defines until a library is opened. */
#include <dlfcn.h>
#include <stdio.h>

int call_late(void);

int main(int count, char **words)
{
    (void)count;
    void *library = dlopen(words[1], RTLD_NOW | RTLD_GLOBAL);
    printf("opened %d\n", library != 0);
    printf("late %d\n", call_late());
    return 0;
}
