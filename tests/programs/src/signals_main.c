#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "facts.h"

static volatile sig_atomic_t caught;
static void count(int signal) { caught += signal; }

static int handlers(int argc, char **argv) {
  (void)argc, (void)argv;
  signal(SIGUSR1, count);
  raise(SIGUSR1);
  kill(getpid(), SIGUSR1);
  FACT("caught %d", caught == 2 * SIGUSR1);
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  FACT("block %d", sigprocmask(SIG_BLOCK, &set, &old));
  FACT("nothing was blocked before: %d", sigismember(&old, SIGUSR1) + sigismember(&old, SIGCHLD));
  caught = 0;
  raise(SIGUSR1);
  FACT("held back %d", caught == 0);
  sigprocmask(SIG_SETMASK, &old, NULL);
  FACT("delivered %d", caught == SIGUSR1);
  struct sigaction action;
  int ignored = 0, handled = 0;
  for (int i = 1; i < 65; i++)
    if (i != SIGUSR1 && !sigaction(i, NULL, &action)) {
      ignored += action.sa_handler == SIG_IGN;
      handled += action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL;
    }
  FACT("ignored at start %d, handled %d", ignored, handled);
  return 0;
}

static int timer(int argc, char **argv) {
  (void)argc, (void)argv;
  signal(SIGALRM, count);
  struct itimerval soon = {.it_value = {.tv_usec = 10000}};
  setitimer(ITIMER_REAL, &soon, NULL);
  while (!caught) pause();
  FACT("alarm %d", caught == SIGALRM);
  return 0;
}

static sigjmp_buf back;
static volatile int on_alternate, address_matches;
static char *alternate, *protected_page;
static const size_t alternate_size = 1 << 16;

static void recover(int signal, siginfo_t *info, void *context) {
  char here;
  (void)signal, (void)context;
  on_alternate = &here >= alternate && &here < alternate + alternate_size;
  address_matches = info->si_addr == protected_page + 5;
  siglongjmp(back, 1);
}

static void on_segv(int flags) {
  alternate = malloc(alternate_size);
  stack_t stack = {.ss_sp = alternate, .ss_size = alternate_size};
  sigaltstack(&stack, NULL);
  struct sigaction action = {.sa_sigaction = recover, .sa_flags = SA_SIGINFO | flags};
  sigaction(SIGSEGV, &action, NULL);
}

static int segv(int argc, char **argv) {
  (void)argc, (void)argv;
  on_segv(SA_ONSTACK);
  protected_page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (volatile int i = 0; i < 3; i++) {
    if (!sigsetjmp(back, 1)) {
      ((volatile char *)protected_page)[5] = 1;
      FACT("not reached");
    }
    FACT("recovered %d, alternate stack %d, address %d", i, on_alternate, address_matches);
  }
  return 0;
}

static __attribute__((noinline)) int deep(int depth, char *above) {
  volatile char frame[1024];
  frame[0] = (char)depth;
  return depth ? deep(depth - 1, (char *)frame) + frame[0] : above != NULL;
}

/* The main stack grows to its limit, is caught there, and works on. */
static int overflow(int argc, char **argv) {
  (void)argc, (void)argv;
  on_segv(SA_ONSTACK);
  if (!sigsetjmp(back, 1)) {
    deep(1 << 30, NULL);
    FACT("not reached");
  }
  FACT("stack overflow caught on the alternate stack %d", on_alternate);
  return 0;
}

static int overflow_kills(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("about to overflow");
  fflush(stdout);
  return deep(1 << 30, NULL);
}

/* Recursion to 90 % of the limit must work. */
static int recursion(int argc, char **argv) {
  (void)argc, (void)argv;
  struct rlimit limit;
  getrlimit(RLIMIT_STACK, &limit);
  size_t bytes = limit.rlim_cur == RLIM_INFINITY ? 64 << 20 : limit.rlim_cur;
  FACT("limit %zu", bytes);
  FACT("deep %d", deep((int)(bytes / 10 * 9 / 1100), NULL) != 0);
  return 0;
}

static int jumps(int argc, char **argv) {
  (void)argc, (void)argv;
  static jmp_buf here;
  volatile int times = 0;
  int value = setjmp(here);
  if (++times < 5) longjmp(here, times);
  FACT("times %d, value %d", times, value);
  return 0;
}

static ucontext_t main_context, other_context;
static void other(int a, int b) {
  FACT("in the other context %d", a + b);
  swapcontext(&other_context, &main_context);
  FACT("back in it");
}

static int contexts(int argc, char **argv) {
  (void)argc, (void)argv;
  getcontext(&other_context);
  other_context.uc_stack = (stack_t){.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  other_context.uc_link = &main_context;
  makecontext(&other_context, (void (*)(void))other, 2, 40, 2);
  swapcontext(&main_context, &other_context);
  FACT("in main");
  swapcontext(&main_context, &other_context);
  return 0;
}

static int null_call(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("calling null");
  fflush(stdout);
  ((void (*volatile)(void))NULL)();
  return 0;
}

static int smashed(int argc, char **argv) {
  char small[8];
  memset(small, argc, (size_t)(argc + 0) * 100 + strlen(argv[1]));
  FACT("%d", small[3]);
  return 0;
}

static int freed_twice(int argc, char **argv) {
  (void)argc, (void)argv;
  char *volatile block = malloc(24);
  free(block);
  free(block);
  return 0;
}

BEHAVIOURS({"handlers", handlers}, {"timer", timer}, {"segv", segv}, {"overflow", overflow},
           {"overflow-kills", overflow_kills}, {"recursion", recursion}, {"jumps", jumps},
           {"contexts", contexts}, {"null-call", null_call}, {"smashed", smashed},
           {"freed-twice", freed_twice})
