#include "UDP.h"
#include "sockets.h"

#ifndef VERSION
#define VERSION 1
#endif

enum { INTERNET = 2, DATAGRAM = 2 };

struct address {
    unsigned short family, port;
    unsigned host, padding[2];
};

static struct address loopback(unsigned short port)
{
    struct address to = {INTERNET, __builtin_bswap16(port), __builtin_bswap32(0x7f000001), {0, 0}};
    return to;
}

int UDP_Open(unsigned short port)
{
    struct address here = loopback(port);
    int endpoint = socket(INTERNET, DATAGRAM, 0);

    if (endpoint < 0)
        return -1;
    if (bind(endpoint, &here, sizeof here)) {
        close(endpoint);
        return -1;
    }
    return endpoint;
}

int UDP_Receive(int endpoint, void *buffer, int size)
{
    return (int)recv(endpoint, buffer, (unsigned long)size, 0);
}

int UDP_Send(int endpoint, unsigned short port, const void *buffer, int size)
{
    struct address to = loopback(port);

    return (int)sendto(endpoint, buffer, (unsigned long)size, 0, &to, sizeof to);
}

void UDP_Close(int endpoint)
{
    close(endpoint);
}

int UDP_Version(void)
{
    return VERSION;
}
