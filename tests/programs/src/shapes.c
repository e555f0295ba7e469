/* Functions of all shapes, to be called through hooks and traces: shapes_*.c and its callers print
   what they got, so that two ways can be compared. */
#include <complex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct small {
    long a;
    double b;
};
struct big {
    long a[6];
};

double ten(int a, long b, const char *c, double d, float e, unsigned f, long g, int h, const char *i,
           double j)
{
    return a + b + (double)strlen(c) + d + e + f + g + h + (double)strlen(i) + j;
}

double many_doubles(double a, double b, double c, double d, double e, double f, double g, double h,
                    double i, double j)
{
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j;
}

long sum(int count, ...)
{
    va_list list;
    long total = 0;
    va_start(list, count);
    for (int i = 0; i < count; i++)
        total += va_arg(list, long);
    va_end(list);
    return total;
}

double sum_doubles(int count, ...)
{
    va_list list;
    double total = 0;
    va_start(list, count);
    for (int i = 0; i < count; i++)
        total += va_arg(list, double);
    va_end(list);
    return total;
}

struct small make_small(long a, double b)
{
    return (struct small){a + 1, b + 0.5};
}

struct big make_big(long a, long b)
{
    return (struct big){{a, b, a + b, a - b, a * b, 7}};
}

long double make_long_double(long double a)
{
    return a / 3;
}

double complex make_complex(double a, double b)
{
    return a + b * I;
}

long take_big(struct big big, int last)
{
    return big.a[0] + big.a[5] * last;
}

float halve(float a)
{
    return a / 2;
}

void leave(jmp_buf *to, int value)
{
    longjmp(*to, value);
}

int call_back(int (*function)(int), int argument)
{
    return function(argument) + 1;
}
