#include "Console.h"
#include "ConsolePrivate.h"

static char screen[4096];
static unsigned used;

int Console_Write(const char *text)
{
    unsigned before = used;

    while (*text && used < sizeof screen)
        screen[used++] = *text++;
    return (int)(used - before);
}

void ConsolePrivate_Clear(void)
{
    used = 0;
}

int ConsolePrivate_Written(void)
{
    return (int)used;
}
