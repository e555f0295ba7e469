/* A library that opens others: everything is what dlfcn.h has, called from here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *(*const in_data)(const char *, int) = dlopen;
const char *at_end;

int answer(void)
{
    return OWN;
}

void *opens(const char *name, int mode)
{
    return dlopen(name, mode);
}

void *opens_by_pointer(const char *name, int mode)
{
    return in_data(name, mode);
}

void *opens_apart(long where, const char *name, int mode)
{
    return dlmopen(where, name, mode);
}

void *finds(void *handle, const char *name)
{
    return dlsym(handle, name);
}

void *finds_version(void *handle, const char *name, const char *version)
{
    return dlvsym(handle, name, version);
}

int closes(void *handle)
{
    return dlclose(handle);
}

const char *says(void)
{
    return dlerror();
}

int informs(void *handle, int request, void *result)
{
    return dlinfo(handle, request, result);
}

const char *file_of(void *address)
{
    Dl_info info;
    return dladdr(address, &info) ? info.dli_fname : 0;
}

static void *opens_often(void *name)
{
    long wrong = 0;
    for (int i = 0; i < 50; i++) {
        void *handle = dlopen(name, RTLD_NOW);
        int (*function)(void) = handle ? dlsym(handle, "plug") : 0;
        wrong += !function || function() != 40 + OWN;
        wrong += dlopen("libnobody.so", RTLD_NOW) != 0 || !strstr(dlerror(), "libnobody.so");
        wrong += !handle || dlclose(handle);
    }
    return (void *)wrong;
}

long in_threads(const char *name)
{
    pthread_t threads[4];
    long wrong = 0;
    for (int i = 0; i < 4; i++)
        wrong += pthread_create(&threads[i], 0, opens_often, (void *)name);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        wrong += (long)result;
    }
    return wrong;
}

static int tries(const char *name, int out)
{
    void *handle = dlopen(name, RTLD_NOW);
    const char *text = handle ? "opened" : dlerror();
    dprintf(out, "%s\n", text);
    dprintf(out, "%s\n", dlsym(RTLD_DEFAULT, "answer") ? "found" : dlerror());
    return !handle;
}

int in_child(const char *name)
{
    int status, child = fork();
    if (!child)
        _exit(tries(name, 1));
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

static void *waits(void *name)
{
    usleep(100000);
    return opens_often(name);
}

int leaves_a_thread(const char *name)
{
    pthread_t thread;
    return pthread_create(&thread, 0, waits, (void *)name);
}

__attribute__((destructor)) static void ends(void)
{
    if (at_end)
        tries(at_end, 1);
}
