/* Several libraries use one thread-local of a capsule's library, in two threads. */
#include <pthread.h>

#include "facts.h"

int add_gd(int), add_ie(int), add_desc(int), cap_add_tls(int);
extern __thread int cap_tls;

static void *adds(void *unused) {
  FACT("%d %d %d %d %d", add_gd(1), add_ie(10), add_desc(100), cap_add_tls(1000), cap_tls);
  return 0;
}

int main(void) {
  pthread_t thread;
  adds(0);
  pthread_create(&thread, 0, adds, 0);
  pthread_join(thread, 0);
  adds(0);
  return 0;
}
