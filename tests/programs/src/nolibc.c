/* A program without any libc: it talks to the kernel itself and prints what it was started with. */
typedef unsigned long word;

static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

static void say(const char *text) {
  word length = 0;
  while (text[length]) length++;
  call(1, 1, (long)text, (long)length);
}

static void say_number(const char *what, word number) {
  char digits[24];
  int at = sizeof digits - 1;
  digits[at] = 0;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  say(what);
  say(digits + at);
  say("\n");
}

static const char *const pointers[] = {"relocated ", "data\n"}; /* RELATIVE, if a PIE */
static int counter = 5;
static char zeroed[10000];

#ifdef LIBRARY
int library_value(void);
extern int library_data;
#endif

__attribute__((used)) static void run(word *stack) {
  word argc = stack[0], variables = 0, aligned = (word)stack % 16 == 0;
  char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
  while (envp[variables]) variables++;
  word *aux = (word *)(envp + variables + 1), entries = 0, page = 0, entry = 0;
  for (; aux[2 * entries]; entries++) {
    if (aux[2 * entries] == 6) page = aux[2 * entries + 1];
    if (aux[2 * entries] == 9) entry = aux[2 * entries + 1];
  }
  extern char _start[];
  for (int i = 0; i < 2; i++) say(pointers[i]);
  say_number("argc ", argc);
  for (word i = 1; i < argc; i++) say(argv[i]), say("\n");
  say_number("variables ", variables);
  say_number("page ", page);
  say_number("entry is right ", entry == (word)_start);
  say_number("stack aligned ", aligned);
  say_number("counter ", (word)(counter += zeroed[9999] + 1));
#ifdef LIBRARY
  say_number("library ", (word)(library_value() + library_data));
#endif
  call(231, 21, 0, 0);
}

__asm__(
    ".globl _start\n_start:\n"
    "  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call run\n  hlt\n");
