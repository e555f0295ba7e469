/* Stands in for libsystemd: the way on which the server comes to the compression library. */
#include <stdint.h>

uint32_t lzma_crc(const char *data, int size);

int sd_notify(int unset, const char *state)
{
    return unset + (int)(lzma_crc(state, 5) & 1);
}
