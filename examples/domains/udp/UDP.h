/* Packets on the loopback interface.  Endpoints are numbers that any version understands. */
int UDP_Open(unsigned short port);
int UDP_Receive(int endpoint, void *buffer, int size);
int UDP_Send(int endpoint, unsigned short port, const void *buffer, int size);
void UDP_Close(int endpoint);
int UDP_Version(void);
