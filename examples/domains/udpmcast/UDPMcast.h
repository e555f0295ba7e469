/* Takes packets in on one port and sends them out on others. */
int UDPMcast_Open(unsigned short port);
int UDPMcast_Forward(int endpoint, const unsigned short *ports, int count);
int UDPMcast_Passed(int version);
