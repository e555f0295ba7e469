/* Libraries that are bound to each other against their DT_NEEDED entries; PART picks one. */
#include <unistd.h>
static void say(const char *text, int length) { write(2, text, length); }
#if PART == 1 /* defines what the library that it needs uses, and has itself only weakly */
int use(void);
int hook(void) { say("first\n", 6); return 1; }
int call(void) { return use(); }
#elif PART == 2
__attribute__((weak)) int hook(void) { say("second\n", 7); return 2; }
int use(void) { return hook(); }
__attribute__((destructor)) static void end(void) { hook(); }
#elif PART == 3 /* needs the second, and no other */
int use(void);
int third(void) { return use(); }
#endif
