int policy_number = 7;

int policy_inner(void)
{
    return 1;
}

int policy_call(void)
{
    return policy_inner() + policy_number;
}
