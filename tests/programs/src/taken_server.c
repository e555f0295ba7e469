/* A server that trusts its crypto library, and tells its manager that it runs. */
#include <stdio.h>

int RSA_public_decrypt(int length);
int sd_notify(int unset, const char *state);

int main(void)
{
    sd_notify(0, "READY");
    puts(RSA_public_decrypt(41) == 42 ? "genuine" : "taken over");
    return 0;
}
