#include "SPL.h"
#include <Domain.h>

static int level;

int SPL_High(void)
{
    int before = level;

    level = 7;
    return before;
}

void SPL_Restore(int to)
{
    level = to;
}

/* As in the paper, the module makes a domain for itself when it starts; here, for everybody. */
__attribute__((constructor)) static void start(void)
{
    NameServer_Register("SPL", Domain_CreateFromInterface(
        "int SPL_High(void); void SPL_Restore(int level);"));
}
