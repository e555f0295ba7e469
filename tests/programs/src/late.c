int late(void)
{
    return 7;
}
