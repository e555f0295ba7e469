/* With -fplt the call goes through a slot that a lazy linker fills in when it is used. */
__attribute__((weak)) int late(void);

int call_late(void)
{
    return late();
}
