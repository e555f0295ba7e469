// Exceptions through calls between libraries, one inside the other; threads that are cancelled.
#include <cstdio>
#include <pthread.h>
#include <stdexcept>
#include <unistd.h>

int pass_on(int (*function)(int), int argument, int *destroyed);

static int destroyed;

static int descend(int depth)
{
    if (depth == 3)
        throw depth;
    return pass_on(descend, depth + 1, &destroyed);
}

static int wait_here(int)
{
    sleep(60);
    return 0;
}

static void *cancelled(void *)
{
    pass_on(wait_here, 1, &destroyed);
    return nullptr;
}

int main()
{
    try {
        pass_on(descend, -1, &destroyed);
    } catch (const std::out_of_range &error) {
        std::printf("%s %d\n", error.what(), destroyed);
    }
    try {
        pass_on(descend, 0, &destroyed);
    } catch (int depth) {
        std::printf("%d %d\n", depth, destroyed);
    }
    pthread_t thread;
    void *result;
    pthread_create(&thread, nullptr, cancelled, nullptr);
    usleep(20000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    std::printf("%d %d\n", result == PTHREAD_CANCELED, destroyed);
    return 0;
}
