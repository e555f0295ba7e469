#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "facts.h"

static void *fill_stack(void *size) {
  volatile char *frame = __builtin_alloca((size_t)size);
  for (size_t i = 0; i < (size_t)size; i += 512) frame[i] = 1;
  return (void *)(size_t)frame[0];
}

static size_t stack_of(pthread_t thread) {
  pthread_attr_t attributes;
  void *address;
  size_t size = 0;
  pthread_getattr_np(thread, &attributes);
  pthread_attr_getstack(&attributes, &address, &size);
  return size;
}

/* The default is RLIMIT_STACK of this start, not of the link. */
static int default_stack(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_attr_t attributes;
  size_t size = 0, guard = 0;
  pthread_attr_init(&attributes);
  pthread_attr_getstacksize(&attributes, &size);
  pthread_attr_getguardsize(&attributes, &guard);
  FACT("default %zu, guard %zu", size, guard);
  pthread_t thread;
  void *result;
  FACT("create %d", pthread_create(&thread, NULL, fill_stack, (void *)(size / 2)));
  FACT("its stack %zu", stack_of(thread));
  pthread_join(thread, &result);
  FACT("filled half of it: %d", result != NULL);
  pthread_attr_setstacksize(&attributes, 1 << 17);
  pthread_create(&thread, &attributes, fill_stack, (void *)(1 << 14));
  FACT("chosen %zu", stack_of(thread));
  pthread_join(thread, &result);
  return 0;
}

static int main_stack(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_attr_t attributes;
  struct rlimit limit;
  char *address, here;
  size_t size;
  getrlimit(RLIMIT_STACK, &limit);
  FACT("getattr %d", pthread_getattr_np(pthread_self(), &attributes));
  pthread_attr_getstack(&attributes, (void **)&address, &size);
  FACT("this frame is inside: %d", &here >= address && &here < address + size);
  if (limit.rlim_cur != RLIM_INFINITY)
    FACT("size is near the limit: %d", size <= limit.rlim_cur && size + (1 << 17) > limit.rlim_cur);
  return 0;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t semaphore;
static long total;
static int ready;

static void *work(void *number) {
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < 10000; i++) {
    pthread_mutex_lock(&mutex);
    total += (long)number;
    pthread_mutex_unlock(&mutex);
    free(malloc((size_t)(i % 2000 + 1)));
  }
  pthread_mutex_lock(&mutex);
  ready++;
  pthread_cond_signal(&condition);
  pthread_mutex_unlock(&mutex);
  sem_post(&semaphore);
  return number;
}

static int locks(int argc, char **argv) {
  (void)argc, (void)argv;
  enum { COUNT = 16 };
  pthread_t threads[COUNT];
  pthread_barrier_init(&barrier, NULL, COUNT);
  sem_init(&semaphore, 0, 0);
  for (long i = 0; i < COUNT; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  pthread_mutex_lock(&mutex);
  while (ready < COUNT) pthread_cond_wait(&condition, &mutex);
  pthread_mutex_unlock(&mutex);
  for (int i = 0; i < COUNT; i++) sem_wait(&semaphore);
  for (int i = 0; i < COUNT; i++) pthread_join(threads[i], NULL);
  FACT("total %ld", total);
  return 0;
}

static void clean_up(void *text) { FACT("clean up %s", (char *)text); }
static void *wait_forever(void *unused) {
  pthread_cleanup_push(clean_up, (void *)"after cancel");
  sem_post(&semaphore);
  for (;;) pause();
  pthread_cleanup_pop(0);
  return unused;
}

/* Cancelling opens libgcc_s at run time. */
static int cancel(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_t thread;
  void *result;
  sem_init(&semaphore, 0, 0);
  pthread_create(&thread, NULL, wait_forever, NULL);
  sem_wait(&semaphore);
  int failed = pthread_cancel(thread);
  pthread_join(thread, &result); /* The thread writes, too. */
  FACT("cancel %d", failed);
  FACT("cancelled %d", result == PTHREAD_CANCELED);
  return 0;
}

static pthread_key_t key;
static void destroy(void *text) { FACT("key destructor %s", (char *)text); }
static void *use_key(void *text) {
  pthread_setspecific(key, text);
  pthread_exit(text);
}

static int keys(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_t thread;
  void *result;
  pthread_key_create(&key, destroy);
  pthread_create(&thread, NULL, use_key, (void *)"of the thread");
  pthread_join(thread, &result);
  FACT("result %s, mine %d", (char *)result, pthread_getspecific(key) == NULL);
  return 0;
}

static void *late(void *unused) {
  usleep(20000);
  FACT("the thread outlives main");
  return unused;
}

static int main_leaves(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_t thread;
  pthread_create(&thread, NULL, late, NULL);
  pthread_exit(NULL);
}

static struct rseq *my_rseq(void) {
  return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void *rseq_in_thread(void *unused) {
  FACT("thread: cpu is known %d", (int)my_rseq()->cpu_id >= 0);
  return unused;
}

static int restartable(int argc, char **argv) {
  (void)argc, (void)argv;
  cpu_set_t one;
  int cpu = sched_getcpu();
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  FACT("pin %d, cpu stays %d", sched_setaffinity(0, sizeof one, &one), sched_getcpu() == cpu);
  FACT("rseq size %u, flags %u", __rseq_size, __rseq_flags);
  FACT("registered cpu %d", (int)my_rseq()->cpu_id == cpu);
  FACT("a second registration is refused: %d",
       syscall(SYS_rseq, my_rseq(), 32, 0, 0x53053053) < 0 ? errno : 0);
  pthread_t thread;
  pthread_create(&thread, NULL, rseq_in_thread, NULL);
  pthread_join(thread, NULL);
  fflush(stdout);
  pid_t child = fork();
  if (!child) _exit((int)my_rseq()->cpu_id == sched_getcpu() ? 1 : 2);
  int status;
  waitpid(child, &status, 0);
  FACT("after fork %d", WEXITSTATUS(status));
  return 0;
}

static void *own_id(void *out) {
  *(pid_t *)out = gettid();
  return NULL;
}

static int identity(int argc, char **argv) {
  (void)argc, (void)argv;
  pid_t other = 0;
  pthread_t thread;
  FACT("main thread %d", gettid() == getpid());
  pthread_create(&thread, NULL, own_id, &other);
  pthread_join(thread, NULL);
  FACT("another id %d", other && other != getpid());
  clockid_t clock;
  FACT("thread clock %d", pthread_getcpuclockid(pthread_self(), &clock));
  FACT("kill self with 0: %d", pthread_kill(pthread_self(), 0));
  struct robust_list_head *head = NULL;
  size_t length = 0;
  FACT("robust list %ld, %zu, %d", syscall(SYS_get_robust_list, 0, &head, &length), length,
       head != NULL);
  pthread_mutexattr_t attributes;
  pthread_mutex_t checked;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  pthread_mutex_init(&checked, &attributes);
  pthread_mutex_lock(&checked);
  FACT("relock %d, unlock %d", pthread_mutex_lock(&checked) == EDEADLK,
       pthread_mutex_unlock(&checked));
  return 0;
}

static pthread_mutex_t robust;
static void *die_with_lock(void *unused) {
  pthread_mutex_lock(&robust);
  return unused;
}

static int robust_lock(int argc, char **argv) {
  (void)argc, (void)argv;
  pthread_mutexattr_t attributes;
  pthread_t thread;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&robust, &attributes);
  pthread_create(&thread, NULL, die_with_lock, NULL);
  pthread_join(thread, NULL);
  FACT("owner died %d", pthread_mutex_lock(&robust) == EOWNERDEAD);
  return 0;
}

BEHAVIOURS({"default-stack", default_stack}, {"main-stack", main_stack}, {"locks", locks},
           {"cancel", cancel}, {"keys", keys}, {"main-leaves", main_leaves},
           {"rseq", restartable}, {"identity", identity}, {"robust", robust_lock})
