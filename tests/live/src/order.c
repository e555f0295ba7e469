/* Writes what runs, in order: NAME and NEED are given by the test. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef NEED
int NEED(void);
#endif
static int state;
int NAME(void) { return state; }
static void say(const char *what) { dprintf(2, "%s %s\n", STRING, what); }
__attribute__((constructor)) static void begin(int argc, char **argv, char **envp)
{
    state = 1;
    if (argc < 1 || !argv[0] || argv[argc] || !envp) abort();
#ifdef NEED
    if (NEED() != 1) abort();
#endif
    say("begins");
}
__attribute__((destructor)) static void end(void) { state = 2; say("ends"); }
void _init(void) { say("init"); }
void _fini(void) { say("fini"); }
