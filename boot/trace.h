/* The traced calls of one image, as the trace module writes them (src/spidl/modules/trace/layout.py),
   and what the parts of libspidl-trace.so know of each other. */
#ifndef SPIDL_TRACE_H
#define SPIDL_TRACE_H

#define TRACE_FLOATS 1  /* an argument or the result is a float or double */
#define TRACE_RETURNS 2 /* called, not jumped to: something is to be done when it returns */
#define TRACE_CALL 4    /* a line when it is called */
#define TRACE_RESULT 8  /* a line when it returns */
#define TRACE_KNOWN 16  /* its arguments are known */
#define TRACE_MORE 32   /* and there may be more of them */

/* Offsets in struct call and struct frame, for trace.S. */
#define CALL_FLAGS 20
#define CALL_STACK 21
#define FRAME_SIZE 672
#define FRAME_SAVED 528

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

enum type {
    TYPE_VOID, TYPE_INT, TYPE_UINT, TYPE_LONG, TYPE_ULONG, TYPE_HEX, TYPE_OCT, TYPE_PTR, TYPE_STR,
    TYPE_CHAR, TYPE_DOUBLE, TYPE_FLOAT, TYPE_BYTES, TYPE_STRUCT, TYPE_UNKNOWN,
};

struct call {
    uint64_t original;
    uint32_t caller, symbol, of; /* texts, as offsets from the trace */
    uint8_t flags, stack;        /* stack: 8-byte words of arguments there */
    uint8_t result, count;
    uint8_t types[40];
};
_Static_assert(sizeof(struct call) == 64 && offsetof(struct call, flags) == CALL_FLAGS &&
               offsetof(struct call, stack) == CALL_STACK, "struct call");

struct trace {
    char magic[8];
    uint8_t identity[16];
    uint32_t count;    /* calls behind this */
    uint32_t size;     /* bytes of all this with calls and texts */
    uint32_t counters; /* bytes of the counters, whole pages right before this */
    uint32_t output;   /* a text: the file for lines, empty for standard error */
    uint32_t table;    /* whether counts are written at exit */
    uint32_t unused;
    uint64_t reserved;
    struct call calls[];
};
_Static_assert(sizeof(struct trace) == 56, "struct trace");

struct counter {
    uint64_t calls, unused[7]; /* a cache line each, for threads */
};

struct frame {
    char line[512];
    uint64_t length, unused;
    uint64_t general[6]; /* rdi rsi rdx rcx r8 r9 */
    uint64_t rax, r10;
    const struct call *call;
    uint64_t vector[8], fill; /* the low halves of xmm0 to xmm7 */
    uint64_t rbp, back;
    uint64_t stack[]; /* arguments */
};
_Static_assert(offsetof(struct frame, rbp) == FRAME_SIZE &&
               offsetof(struct frame, general) == FRAME_SAVED, "struct frame");

/* In the object that has the thunks. */
extern __attribute__((visibility("default"))) const struct trace spidl_trace_calls;

/* A line in the making; what does not fit is left out. */
struct line {
    char *text;
    size_t length, room;
};

void put_text(struct line *line, const char *text);
void put_number(struct line *line, uint64_t value, unsigned base, unsigned width);
void put_call(struct line *line, const struct frame *frame);
void put_value(struct line *line, uint8_t type, uint64_t value, uint64_t size);
void write_line(const char *text, size_t length);

long trace_system(long number, long a, long b, long c, long d, long e, long f);
#endif
#endif
