/* What instructions refer to, function by function: the fast half of spidl.analyse.code.
 *
 * forms.h has what iced-x86 says about instructions.  A function with anything that is not in it
 * (damaged code, rare encodings) is left to iced, so nothing here decides what is no instruction.
 */
#include <string.h>

#include "forms.h"

enum { LONGEST = 15 };
enum { LEGACY_PLANES = 24, VEX_PLANES = 32, VEX_FIRST = 4 * LEGACY_PLANES };

/* What is known of a function at its end: see Swept in spidl/analyse/native.py. */
enum { FALLS = 0, RETURNS = 1, ENDS = 2, UNSURE = 3 };

/* Kinds of rows that are no references; the others are the classes less 1, and MEMORY and BOUND. */
enum { ROW_WIDE = 5, ROW_SYSCALL = 16, ROW_INTERRUPT = 17 };

static uint8_t expanded[ROWS][COLUMNS];
static uint8_t places[SHEETS][256];

struct one {
    int64_t target; /* Of a branch or an operand, or the immediate; 0 for none. */
    int length;
    int kind;
    int is_relative; /* Has an operand in memory that is relative to the next instruction. */
};

/* Fills the tables; called once, before anything else. */
void spidl_sweep_prepare(void)
{
    const uint8_t *form = forms;
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < COLUMNS; form += 2) {
            memset(&expanded[row][column], form[1], form[0]);
            column += form[0];
        }
    const uint8_t *run = runs;
    memset(places, ROWS, sizeof places);
    for (int sheet = 0; sheet < SHEETS; sheet++)
        for (int left = sizes[sheet]; left > 0; left--, run += 3)
            memset(&places[sheet][run[0]], run[2], run[1] - run[0] + 1);
}

static int64_t number(const uint8_t *at, int size)
{
    int64_t whole;
    int32_t half;
    switch (size) {
    case 1:
        return (int8_t)*at;
    case 4:
        memcpy(&half, at, 4);
        return half;
    default:
        memcpy(&whole, at, 8);
        return whole;
    }
}

/* Bytes of an operand's address behind ModRM; -1 where they are not there. */
static int address_size(const uint8_t *modrm, const uint8_t *end)
{
    int mod = *modrm >> 6, rm = *modrm & 7, size = 0;
    if (mod == 3)
        return 0;
    if (rm == 4) {
        if (modrm + 1 >= end)
            return -1;
        size = 1;
        if (mod == 0 && (modrm[1] & 7) == 5)
            size += 4;
    } else if (mod == 0 && rm == 5) {
        size = 4;
    }
    return size + (mod == 1) + 4 * (mod == 2);
}

/* The plane and the opcode of what starts at *at, which is moved behind the opcode; -1 where only
 * iced knows. */
static int find_plane(const uint8_t **at, const uint8_t *end, int *opcode)
{
    int size = 0, repeat = 0, lock = 0, rex = 0, plain = 1;
    const uint8_t *p = *at;
    for (; p < end; p++, plain = 0) {
        switch (*p) {
        case 0x66:
            size = 1;
            continue;
        case 0xf3:
        case 0xf2:
            if (repeat && repeat != (*p == 0xf3 ? 1 : 2))
                return -1;
            repeat = *p == 0xf3 ? 1 : 2;
            continue;
        case 0xf0:
            lock = 1;
            continue;
        case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
            continue;
        }
        break;
    }
    if (p < end && (*p & 0xf0) == 0x40) {
        rex = *p++;
        plain = 0;
        if (p < end && (*p & 0xf0) == 0x40)
            return -1;
    }
    int map = 0;
    if (p < end && (*p == 0xc4 || *p == 0xc5)) {
        /* Prefixes before VEX are no instruction, mostly. */
        int long_form = *p == 0xc4;
        if (!plain || p + 2 + long_form >= end)
            return -1;
        int last = p[1 + long_form], first = long_form ? p[1] & 0x1f : 1;
        int wide = long_form && last & 0x80, used = (last & 0x78) != 0x78;
        if (first < 1 || first > 3)
            return -1;
        *opcode = p[2 + long_form];
        *at = p + 3 + long_form;
        return VEX_FIRST + (first - 1) * VEX_PLANES + wide * 16 + !!(last & 4) * 8 + used * 4 +
               (last & 3);
    }
    if (p < end && *p == 0x0f) {
        map = 1;
        p++;
        if (p < end && (*p == 0x38 || *p == 0x3a))
            map = *p++ == 0x38 ? 2 : 3;
    }
    if (p >= end)
        return -1;
    *opcode = *p;
    *at = p + 1;
    if (map == 0 && *opcode == 0x90 && rex & 1)
        return -1; /* xchg instead of nop */
    return map * LEGACY_PLANES + size * 12 + repeat * 4 + !!(rex & 8) * 2 + lock;
}

/* One instruction; 0 where only iced can tell. */
static int decode(const uint8_t *start, const uint8_t *end, int64_t vaddr, struct one *one)
{
    const uint8_t *p = start;
    int opcode, plane = find_plane(&p, end, &opcode);
    if (plane < 0)
        return 0;
    int row = places[planes[plane]][opcode];
    if (row == ROWS)
        return 0;
    int modrm = p < end ? *p : 0;
    int form = expanded[row][modrm < 0xc0 ? modrm >> 3 & 7 : 8 + (modrm & 0x3f)];
    if (form == NOTHING)
        return 0;
    int relative = 0;
    const uint8_t *address = p + 1;
    if (form & HAS_MODRM) {
        int size = p < end ? address_size(p, end) : -1;
        if (size < 0)
            return 0;
        relative = (modrm & 0xc7) == 5;
        p += 1 + size;
    }
    int immediate = immediates[form >> 4 & 7];
    const uint8_t *behind = p + immediate;
    if (behind > end || behind - start > LONGEST)
        return 0;
    one->length = (int)(behind - start);
    one->kind = form & 15;
    one->is_relative = relative;
    one->target = 0;
    if (relative) {
        one->target = vaddr + one->length + number(address, 4);
    } else if (one->kind == CLASS_CALL || one->kind == CLASS_JUMP || one->kind == CLASS_BRANCH) {
        if (immediate != 1 && immediate != 4)
            return 0;
        one->target = vaddr + one->length + number(p, immediate);
    } else if (one->kind == CLASS_WIDE) {
        one->target = number(p, 8);
    } else if (one->kind == CLASS_INTERRUPT) {
        one->target = *p;
    }
    return 1;
}

struct rows {
    int64_t *sources, *targets;
    int8_t *kinds;
    int64_t count;
};

static void add(struct rows *rows, int64_t source, int64_t target, int kind)
{
    rows->sources[rows->count] = source;
    rows->targets[rows->count] = target;
    rows->kinds[rows->count++] = (int8_t)kind;
}

/* One function; what is known at its end. `marks` has a byte for each of the text's. */
static int sweep_one(const uint8_t *text, int64_t base, int64_t start, int64_t end,
                     uint8_t *marks, struct rows *rows)
{
    const uint8_t *stop = text + (end - base);
    int last = CLASS_PADDING;
    struct one one;
    for (int64_t at = start; at < end; at += one.length) {
        if (!decode(text + (at - base), stop, at, &one))
            return UNSURE;
        marks[at - base] = 1;
        if (one.kind != CLASS_PADDING)
            last = one.kind;
        int bound = one.kind == CLASS_BOUND_CALL || one.kind == CLASS_BOUND_JUMP;
        if (one.is_relative)
            add(rows, at, one.target, MEMORY + bound);
        else if (one.kind >= CLASS_CALL && one.kind <= CLASS_BRANCH)
            add(rows, at, one.target, one.kind - 1);
        else if (one.kind == CLASS_WIDE)
            add(rows, at, one.target, ROW_WIDE);
        else if (one.kind == CLASS_SYSCALL)
            add(rows, at, 0, ROW_SYSCALL);
        else if (one.kind == CLASS_INTERRUPT && one.target == 0x80)
            add(rows, at, 0, ROW_INTERRUPT);
    }
    switch (last) {
    case CLASS_CALL: case CLASS_BOUND_CALL: case CLASS_OTHER_CALL: case CLASS_SYSCALL:
        return RETURNS;
    case CLASS_JUMP: case CLASS_BOUND_JUMP: case CLASS_END: case CLASS_PADDING:
        return ENDS;
    default:
        return FALLS;
    }
}

/* Functions [start, end) from `first` on, as long as their rows have room (in rows; a function has
 * at most one for each two of its bytes).  Gives the index of the function behind the last, and in
 * `count` how many rows there are. */
int64_t spidl_sweep(const uint8_t *text, int64_t base, const int64_t *starts, const int64_t *ends,
                    int64_t first, int64_t functions, int64_t room, uint8_t *marks, uint8_t *finals,
                    int64_t *sources, int64_t *targets, int8_t *kinds, int64_t *count)
{
    struct rows rows = {sources, targets, kinds, 0};
    int64_t at = first;
    for (; at < functions; at++) {
        int64_t size = ends[at] - starts[at];
        if (size / 2 + 1 > room - rows.count)
            break;
        int64_t before = rows.count;
        finals[at] = (uint8_t)sweep_one(text, base, starts[at], ends[at], marks, &rows);
        if (finals[at] == UNSURE) {
            rows.count = before;
            memset(marks + (starts[at] - base), 0, (size_t)size);
        }
    }
    *count = rows.count;
    return at;
}
