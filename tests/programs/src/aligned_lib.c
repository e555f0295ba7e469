/* Linked with -z max-page-size of 2 MB: each segment wants a 2 MB aligned address. */
#include <stdio.h>
static int data[100] __attribute__((aligned(4096))) = {6};
static char zeroed[5 << 20];
int aligned_data(void) { return data[0] + zeroed[sizeof zeroed - 1]; }
int value(void) { return ((unsigned long)data % 4096 == 0) * aligned_data(); }
