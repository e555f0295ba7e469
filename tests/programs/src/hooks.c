/* Functions that take the place of those of shapes.c and of libc: under the originals' names, for
   LD_PRELOAD and for hooks alike; the original is the next one, or in a variable. */
#define _GNU_SOURCE
#include <complex.h>
#include <dlfcn.h>
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

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

double ten(int a, long b, const char *c, double d, float e, unsigned f, long g, int h, const char *i,
           double j)
{
    typedef double (*function)(int, long, const char *, double, float, unsigned, long, int,
                               const char *, double);
    return 1000 + NEXT(function, "ten")(a, b, c, d, e, f, g, h, i, j);
}

long sum(int count, ...)
{
    typedef long (*function)(int, ...);
    va_list list;
    long total = 0;
    va_start(list, count);
    for (int i = 0; i < count; i++)
        total += NEXT(function, "sum")(1, va_arg(list, long)) + 1;
    va_end(list);
    return total;
}

struct small make_small(long a, double b)
{
    typedef struct small (*function)(long, double);
    struct small made = NEXT(function, "make_small")(a, b);
    made.b *= 2;
    return made;
}

struct big make_big(long a, long b)
{
    typedef struct big (*function)(long, long);
    struct big made = NEXT(function, "make_big")(b, a);
    made.a[2]++;
    return made;
}

long double make_long_double(long double a)
{
    typedef long double (*function)(long double);
    return NEXT(function, "make_long_double")(a + 1);
}

double complex make_complex(double a, double b)
{
    typedef double complex (*function)(double, double);
    return NEXT(function, "make_complex")(a, b) * I;
}

int printf(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int length = vprintf(format, list);
    va_end(list);
    return length + (int)fwrite("| ", 1, 2, stdout);
}
