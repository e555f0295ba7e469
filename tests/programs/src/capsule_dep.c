/* A private dependency with equal names on both sides; VALUE tells which one was found. */
#include <stdlib.h>

int value(void) { return VALUE; }
int value_data = VALUE;
__thread int value_tls = VALUE;
const char *value_name(void) { return getenv("VALUE_NAME"); }
#ifdef ALSO
int ALSO(void) { return VALUE; } /* the other side's version has no such function */
#endif
