// An inline variable is STB_GNU_UNIQUE: its library stays, since a thread may go on in it.
#include <pthread.h>
#include <unistd.h>
inline int shared_counter = 0;
static void *work(void *)
{
    for (;;) {
        usleep(1000);
        ++shared_counter;
    }
}
extern "C" void start()
{
    pthread_t thread;
    pthread_create(&thread, nullptr, work, nullptr);
    pthread_detach(thread);
}
