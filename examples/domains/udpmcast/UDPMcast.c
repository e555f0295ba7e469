#include "UDPMcast.h"
#include "UDP.h"

enum { LARGEST = 2048, STOP = 0xff };

static int passed[3];

int UDPMcast_Open(unsigned short port)
{
    return UDP_Open(port);
}

/* Forwards until a packet of the one byte STOP comes in; gives the number of packets taken. */
int UDPMcast_Forward(int endpoint, const unsigned short *ports, int count)
{
    unsigned char packet[LARGEST];
    int taken = 0;

    for (;;) {
        int size = UDP_Receive(endpoint, packet, sizeof packet);
        int version = UDP_Version();

        if (size < 0)
            return -1;
        if (size == 1 && packet[0] == STOP)
            break;
        for (int i = 0; i < count; i++)
            if (UDP_Send(endpoint, ports[i], packet, size) != size)
                return -1;
        taken++;
        passed[version < 3 ? version : 0]++;
    }
    UDP_Close(endpoint);
    return taken;
}

int UDPMcast_Passed(int version)
{
    return version >= 0 && version < 3 ? passed[version] : -1;
}
