/* Lines of the trace: numbers, texts and arguments, without a C library and its locale. */
#include "trace.h"

enum { SYS_GETPID = 39, SYS_PROCESS_VM_READV = 310, PAGE = 4096, SHOWN = 48 };

static void put(struct line *line, char c)
{
    if (line->length < line->room)
        line->text[line->length++] = c;
}

void put_text(struct line *line, const char *text)
{
    while (*text)
        put(line, *text++);
}

void put_number(struct line *line, uint64_t value, unsigned base, unsigned width)
{
    char digits[24];
    unsigned count = 0;
    do
        digits[count++] = "0123456789abcdef"[value % base];
    while (value /= base);
    for (; width > count; width--)
        put(line, ' ');
    while (count)
        put(line, digits[--count]);
}

static void put_signed(struct line *line, int64_t value)
{
    if (value < 0)
        put(line, '-');
    put_number(line, value < 0 ? -(uint64_t)value : (uint64_t)value, 10, 0);
}

static void put_hex(struct line *line, uint64_t value)
{
    put_text(line, "0x");
    put_number(line, value, 16, 0);
}

/* mantissa * 2**exponent: six decimals where that is exact enough to read, else as C's %a. */
static void put_real(struct line *line, int negative, uint64_t mantissa, int exponent)
{
    if (negative)
        put(line, '-');
    if (!mantissa) {
        put(line, '0');
        return;
    }
    for (; !(mantissa & 1); exponent++)
        mantissa >>= 1;
    int top = 63 - __builtin_clzll(mantissa);
    if (exponent + top > 62 || exponent + top < -14) {
        put_hex(line, mantissa);
        put(line, 'p');
        put_signed(line, exponent);
        return;
    }
    if (exponent >= 0) {
        put_number(line, mantissa << exponent, 10, 0);
        return;
    }
    unsigned below = (unsigned)-exponent; /* at most 14 + 52 */
    unsigned __int128 one = (unsigned __int128)1 << below;
    uint64_t whole = (uint64_t)(mantissa >> (below < 63 ? below : 63));
    unsigned __int128 rest = mantissa - ((unsigned __int128)whole << below);
    uint64_t decimals = (uint64_t)((rest * 1000000 + one / 2) >> below);
    if (decimals == 1000000)
        whole++, decimals = 0;
    put_number(line, whole, 10, 0);
    if (decimals) {
        put(line, '.');
        for (uint64_t unit = 100000; unit && decimals; decimals %= unit, unit /= 10)
            put(line, (char)('0' + decimals / unit));
    }
}

static void put_double(struct line *line, uint64_t bits)
{
    int exponent = (int)(bits >> 52 & 0x7ff);
    uint64_t fraction = bits & ((1ULL << 52) - 1);
    if (exponent == 0x7ff)
        put_text(line, fraction ? "nan" : bits >> 63 ? "-inf" : "inf");
    else
        put_real(line, (int)(bits >> 63), exponent ? fraction | 1ULL << 52 : fraction,
                 (exponent ? exponent : 1) - 1075);
}

static void put_float(struct line *line, uint32_t bits)
{
    int exponent = (int)(bits >> 23 & 0xff);
    uint32_t fraction = bits & ((1U << 23) - 1);
    if (exponent == 0xff)
        put_text(line, fraction ? "nan" : bits >> 31 ? "-inf" : "inf");
    else
        put_real(line, (int)(bits >> 31), exponent ? fraction | 1U << 23 : fraction,
                 (exponent ? exponent : 1) - 150);
}

static void put_char(struct line *line, unsigned char c)
{
    if (c == '"' || c == '\\') {
        put(line, '\\');
        put(line, (char)c);
    } else if (c >= 32 && c < 127) {
        put(line, (char)c);
    } else if (c == '\n' || c == '\t' || c == '\r') {
        put(line, '\\');
        put(line, c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
    } else {
        put(line, '\\');
        put(line, 'x');
        put(line, "0123456789abcdef"[c >> 4]);
        put(line, "0123456789abcdef"[c & 15]);
    }
}

/* How many bytes at an address could be read: through the kernel, since it may be no address. */
static size_t read_memory(uint64_t address, char *into, size_t size)
{
    struct {
        uint64_t start, length;
    } own = {(uint64_t)into, size}, theirs[2] = {{address, size}, {0, 0}};
    uint64_t left = PAGE - address % PAGE;
    if (left < size) { /* a part is read only up to a whole entry */
        theirs[0].length = left;
        theirs[1].start = address + left;
        theirs[1].length = size - left;
    }
    long process = trace_system(SYS_GETPID, 0, 0, 0, 0, 0, 0);
    long found = trace_system(SYS_PROCESS_VM_READV, process, (long)&own, 1, (long)theirs, 2, 0);
    return found < 0 ? 0 : (size_t)found;
}

static void put_memory(struct line *line, uint64_t address, size_t size, int is_text)
{
    char text[SHOWN];
    size_t wanted = size < SHOWN ? size : SHOWN;
    size_t found = address ? read_memory(address, text, wanted) : 0;
    if (!address || (!found && wanted)) {
        put_hex(line, address);
        return;
    }
    put(line, '"');
    size_t at = 0;
    for (; at < found && !(is_text && !text[at]); at++)
        put_char(line, (unsigned char)text[at]);
    put(line, '"');
    if (at == found && found < size)
        put_text(line, "...");
}

void put_value(struct line *line, uint8_t type, uint64_t value, uint64_t size)
{
    switch (type) {
    case TYPE_VOID: break;
    case TYPE_INT: put_signed(line, (int32_t)value); break;
    case TYPE_UINT: put_number(line, (uint32_t)value, 10, 0); break;
    case TYPE_LONG: put_signed(line, (int64_t)value); break;
    case TYPE_ULONG: put_number(line, value, 10, 0); break;
    case TYPE_HEX: put_hex(line, (uint32_t)value); break;
    case TYPE_OCT:
        put(line, '0');
        put_number(line, (uint32_t)value, 8, 0);
        break;
    case TYPE_PTR: put_hex(line, value); break;
    case TYPE_STR: put_memory(line, value, ~(size_t)0, 1); break;
    case TYPE_CHAR:
        put(line, '\'');
        put_char(line, (unsigned char)value);
        put(line, '\'');
        break;
    case TYPE_DOUBLE: put_double(line, value); break;
    case TYPE_FLOAT: put_float(line, (uint32_t)value); break;
    case TYPE_BYTES: put_memory(line, value, size, 0); break;
    case TYPE_STRUCT: put_text(line, "{...}"); break;
    default: put(line, '?');
    }
}

/* The arguments by the psABI's classes (section 3.2.3): INTEGER, SSE, then memory. */
void put_call(struct line *line, const struct frame *frame)
{
    const struct call *call = frame->call;
    unsigned general = call->result == TYPE_STRUCT, vector = 0, stack = 0;
    uint64_t values[sizeof call->types + 1];
    put(line, '(');
    if (!(call->flags & TRACE_KNOWN)) {
        put_text(line, "?)");
        return;
    }
    for (unsigned i = 0; i < call->count; i++) {
        if (call->types[i] == TYPE_DOUBLE || call->types[i] == TYPE_FLOAT)
            values[i] = vector < 8 ? frame->vector[vector++] : frame->stack[stack++];
        else
            values[i] = general < 6 ? frame->general[general++] : frame->stack[stack++];
    }
    values[call->count] = 0;
    for (unsigned i = 0; i < call->count; i++) {
        if (i)
            put_text(line, ", ");
        put_value(line, call->types[i], values[i], values[i + 1]);
    }
    if (call->flags & TRACE_MORE)
        put_text(line, call->count ? ", ..." : "...");
    put(line, ')');
}
