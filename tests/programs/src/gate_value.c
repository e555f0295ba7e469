/* A library that is opened, VALUE; with NEEDS it has part of that from another, and with OPENS it
   opens one itself while it is loaded. */
#include <dlfcn.h>

#ifdef NEEDS
int part(void);
#else
static int part(void)
{
    return 0;
}
#endif

#ifdef OPENS
static int opened;

__attribute__((constructor)) static void open_another(void)
{
    opened = dlopen(OPENS, RTLD_NOW) ? 1000 : 2000;
}
#else
enum { opened = 0 };
#endif

int value(void)
{
    return VALUE + part() + opened;
}
