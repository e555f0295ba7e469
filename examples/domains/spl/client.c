#include "SPL.h"

/* Runs with interrupts off, if it is linked. */
int critical(int value)
{
    int level = SPL_High();

    value *= 2;
    SPL_Restore(level);
    return value;
}
