// A library whose function throws, and calls what its caller gave it.
#include <stdexcept>

struct Guard {
    int *count;
    ~Guard() { ++*count; }
};

int pass_on(int (*function)(int), int argument, int *destroyed)
{
    Guard guard{destroyed};
    if (argument < 0)
        throw std::out_of_range("negative");
    return function(argument) + 1;
}
