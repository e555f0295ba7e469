/* Calls every function of shapes.c, and prints what comes back. */
#include <complex.h>
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct small {
    long a;
    double b;
};
struct big {
    long a[6];
};
double ten(int, long, const char *, double, float, unsigned, long, int, const char *, double);
double many_doubles(double, double, double, double, double, double, double, double, double, double);
long sum(int, ...);
double sum_doubles(int, ...);
struct small make_small(long, double);
struct big make_big(long, long);
long double make_long_double(long double);
double complex make_complex(double, double);
long take_big(struct big, int);
float halve(float);
void leave(jmp_buf *, int);
int call_back(int (*)(int), int);

static int twice(int a)
{
    return a ? (int)sum(2, (long)a, (long)call_back(twice, a - 1)) : 0;
}

static void *thread(void *rounds)
{
    long total = 0;
    for (long i = 0; i < (long)rounds; i++)
        total += sum(1, i);
    return (void *)total;
}

static void on_signal(int number)
{
    static volatile long seen;
    seen += sum(2, (long)number, 1L);
}

int main(void)
{
    printf("%g\n", ten(-1, 2, "three", 4.5, 5.25f, 6, 7, 8, "nine", 10.125));
    printf("%g\n", many_doubles(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
    printf("%ld\n", sum(9, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L, 9L));
    printf("%g\n", sum_doubles(10, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.5));
    struct small small = make_small(41, 1.5);
    printf("%ld %g\n", small.a, small.b);
    struct big big = make_big(5, 3);
    printf("%ld %ld %ld %ld %ld %ld\n", big.a[0], big.a[1], big.a[2], big.a[3], big.a[4], big.a[5]);
    printf("%Lg\n", make_long_double(10));
    double complex z = make_complex(1, -2);
    printf("%g %g\n", creal(z), cimag(z));
    printf("%ld\n", take_big(big, 3));
    printf("%g\n", halve(3));
    jmp_buf back;
    volatile int jumps = 0;
    int value = setjmp(back);
    if (value < 3) {
        jumps++;
        leave(&back, value + 1);
    }
    printf("%d %d\n", value, jumps);
    printf("%d\n", call_back(twice, 5));
    pthread_t threads[4];
    for (long i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, thread, (void *)(1000 + i));
    for (int i = 0; i < 4; i++) {
        void *total;
        pthread_join(threads[i], &total);
        printf("%ld\n", (long)total);
    }
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        printf("%ld\n", sum(1, 17L));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, 0, 0);
    child = vfork();
    if (!child)
        _exit(3);
    int status;
    waitpid(child, &status, 0);
    printf("%d\n", WEXITSTATUS(status));
    return 0;
}
