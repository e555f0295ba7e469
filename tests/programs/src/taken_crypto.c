/* Stands in for libcrypto: what an intruder wants to take over. */
int RSA_public_decrypt(int length)
{
    return length + 1;
}
