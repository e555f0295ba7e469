#include <stdio.h>
#include <stdlib.h>

#include "UDPMcast.h"

/* UDPMcast PORT TO... */
int main(int argc, char **argv)
{
    unsigned short to[16];
    int count = argc < 18 ? argc - 2 : 16;

    for (int i = 0; i < count; i++)
        to[i] = (unsigned short)atoi(argv[i + 2]);
    int endpoint = argc > 2 ? UDPMcast_Open((unsigned short)atoi(argv[1])) : -1;
    if (endpoint < 0)
        return 1;
    puts("ready");
    fflush(stdout);
    printf("%d\n", UDPMcast_Forward(endpoint, to, count));
    return 0;
}
