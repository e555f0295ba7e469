/* What of the C library the host gives to the UDP extension, and to nobody else. */
int socket(int domain, int type, int protocol);
int bind(int fd, const void *address, unsigned size);
long recv(int fd, void *buffer, unsigned long size, int flags);
long sendto(int fd, const void *buffer, unsigned long size, int flags, const void *to, unsigned n);
int close(int fd);
