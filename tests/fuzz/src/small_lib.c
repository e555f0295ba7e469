/* A library with something in every table that a linker reads; it needs no C library. */
static int one(void) { return 1; }
static int (*pick(void))(void) { return one; }
int indirect(void) __attribute__((ifunc("pick")));
int (*indirect_pointer)(void) = indirect;

int copied = 7, *copied_address = &copied;
__thread int local = 3, zero[5];
int *address_of_local(void) { return &local + zero[0]; }

int old_version(void) { return 1; }
int new_version(void) { return 2; }
__asm__(".symver old_version,versioned@OLD\n.symver new_version,versioned@@NEW");

__attribute__((visibility("protected"))) int guarded(void) { return one(); }
extern int absent(void) __attribute__((weak));
int (*absent_pointer)(void) = absent;
int (*table[40])(void) = {[3] = guarded, [4] = one, [20] = one, [39] = one};
static void start(void) { copied += absent_pointer ? 1 : 0; }
__attribute__((section(".init_array"), used)) static void (*const starts[])(void) = {start};
