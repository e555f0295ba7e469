/* Opens what its arguments say, in order, and tells what came of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <iconv.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *open_for_others(const char *name);

static int numbers;

static void tell(const char *what, const char *name, void *library)
{
    if (!library) {
        printf("%s %s: %s\n", what, name, dlerror());
        return;
    }
    int (*value)(void) = (int (*)(void))dlsym(library, "value");
    printf("%s %s: %d\n", what, name, value ? value() : 0);
}

static void *open_in_thread(void *name)
{
    for (int i = 0; i < 50; i++) {
        void *library = dlopen(name, RTLD_NOW);
        if (library) {
            __atomic_fetch_add(&numbers, ((int (*)(void))dlsym(library, "value"))(),
                               __ATOMIC_RELAXED);
            dlclose(library);
        } else if (strstr(dlerror(), "refused by the image's policy"))
            __atomic_fetch_add(&numbers, 1000000, __ATOMIC_RELAXED);
    }
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *what = argv[i], *name = argv[i + 1];
        if (!strcmp(what, "open"))
            tell(what, name, dlopen(name, RTLD_NOW));
        else if (!strcmp(what, "self"))
            printf("self: %d\n", dlopen(0, RTLD_NOW) && dlopen("", RTLD_NOW));
        else if (!strcmp(what, "noload"))
            printf("noload %s: %d\n", name, dlopen(name, RTLD_NOW | RTLD_NOLOAD) != 0);
        else if (!strcmp(what, "space"))
            tell(what, name, dlmopen(LM_ID_NEWLM, name, RTLD_NOW));
        else if (!strcmp(what, "others"))
            tell(what, name, open_for_others(name));
        else if (!strcmp(what, "install")) {
            char new[4096];
            snprintf(new, sizeof new, "%s.new", name);
            printf("install: %d\n", rename(new, name));
        } else if (!strcmp(what, "user"))
            printf("user: %d\n", getpwnam(name) != 0);
        else if (!strcmp(what, "convert"))
            printf("convert: %d\n", iconv_open("UTF-8", name) != (iconv_t)-1);
        else if (!strcmp(what, "threads")) {
            pthread_t threads[4];
            for (int t = 0; t < 4; t++)
                pthread_create(&threads[t], 0, open_in_thread, (void *)name);
            for (int t = 0; t < 4; t++)
                pthread_join(threads[t], 0);
            printf("threads: %d\n", numbers);
        }
        fflush(stdout);
    }
    return 0;
}
