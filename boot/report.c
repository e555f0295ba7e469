/* A filter stopped a call: say which one and who made it, and die of it. */
#include "boot.h"

enum { WORDS = 512, TEXT = 1024, NAME = 64, PIECE = 256 };
enum { CALL_READ = 0 };

int64_t report(void)
{
    struct kernel_sigaction action;
    action.handler = spidl_sigsys;
    action.flags = SA_SIGINFO_ | SA_ONSTACK_ | SA_RESTORER_;
    action.restorer = 0; /* the handler does not return */
    action.mask = UINT64_MAX;
    return system_call(SYS_RT_SIGACTION, SIGSYS_, number_of(&action), 0, sizeof action.mask, 0, 0);
}

struct text {
    char bytes[TEXT];
    uint32_t length;
};

static void say(struct text *text, const char *more)
{
    while (*more && text->length < TEXT - 1)
        text->bytes[text->length++] = *more++;
}

static void say_hex(struct text *text, uint64_t number)
{
    char digits[17];
    char *digit = digits + 16;
    *digit = 0;
    do
        *--digit = "0123456789abcdef"[number % 16];
    while (number /= 16);
    say(text, "0x");
    say(text, digit);
}

static const struct spidl_origin *origin(const struct spidl_header *table,
                                         const struct spidl_action *action, uint64_t address)
{
    const struct spidl_origin *found = at(table, action->array);
    for (uint32_t i = 0; i < action->count; i++, found++)
        if (address >= found->start && address < found->end)
            return found;
    return 0;
}

/* A mapping of this process, as /proc/self/maps tells it. */
struct mapping {
    uint64_t start, end, offset;
    int executable;
    char name[NAME]; /* what follows the last slash, cut */
};

struct maps {
    int64_t file;
    uint32_t next, length;
    unsigned char bytes[PIECE];
};

static int next_byte(struct maps *maps)
{
    if (maps->next >= maps->length) {
        int64_t got = system_call(CALL_READ, (uint64_t)maps->file, number_of(maps->bytes), PIECE,
                                  0, 0, 0);
        if (got <= 0 || got > PIECE)
            return -1;
        maps->next = 0;
        maps->length = (uint32_t)got;
    }
    return maps->bytes[maps->next++];
}

/* A number in hex, and what stands behind it. */
static uint64_t next_hex(struct maps *maps, int *behind)
{
    uint64_t number = 0;
    for (;;) {
        int c = *behind = next_byte(maps);
        if (c >= '0' && c <= '9')
            number = number * 16 + (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            number = number * 16 + (uint64_t)(c - 'a' + 10);
        else
            return number;
    }
}

/* "START-END rwxp OFFSET DEVICE INODE   PATH", proc_pid_maps(5). Returns 0 at the end. */
static int next_mapping(struct maps *maps, struct mapping *mapping)
{
    int c, spaces = 0;
    uint32_t length = 0;
    mapping->start = next_hex(maps, &c);
    if (c != '-')
        return 0;
    mapping->end = next_hex(maps, &c);
    mapping->executable = 0;
    while ((c = next_byte(maps)) > ' ')
        mapping->executable |= c == 'x';
    mapping->offset = next_hex(maps, &c);
    for (; c >= 0 && c != '\n'; c = next_byte(maps)) {
        spaces += c == ' ';
        if (c == '/' || spaces < 3)
            length = 0;
        else if (c != ' ' && length < NAME - 1)
            mapping->name[length++] = (char)c;
    }
    mapping->name[length] = 0;
    return 1;
}

/* Where the mappings can be read: an origin without code has the path, if the filter allows it. */
static const char *maps_path(const struct spidl_header *table, const struct spidl_action *action)
{
    const struct spidl_origin *found = at(table, action->array);
    for (uint32_t i = 0; i < action->count; i++, found++)
        if (found->start == found->end)
            return text_at(table, found->name);
    return 0;
}

/* The mapping of a call, or the one of the first return address on the stack that lies in code of
   another file than the call: `*word` is then that address. Only the page of the stack pointer is
   sure to be there. Returns 0 where there is none. */
static int find(const char *path, struct mapping *found, const struct mapping *callee,
                uint64_t call, const uint64_t *stack, uint64_t *word)
{
    uint32_t words = (uint32_t)(SPIDL_PAGE - number_of(stack) % SPIDL_PAGE) / 8, best;
    struct mapping one;
    struct maps maps;
    maps.next = maps.length = 0;
    if (!path)
        return 0;
    maps.file = system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, number_of(path), OPEN_FLAGS, 0, 0, 0);
    if (maps.file < 0)
        return 0;
    best = words = words < WORDS ? words : WORDS;
    while (next_mapping(&maps, &one)) {
        if (!callee && call >= one.start && call < one.end) {
            *found = one;
            best = 0;
        }
        if (!callee || !one.executable || one.start == callee->start ||
            (*one.name && same_text(one.name, callee->name)))
            continue;
        for (uint32_t i = 0; i < best; i++)
            if (stack[i] >= one.start && stack[i] < one.end) {
                *found = one;
                *word = stack[best = i];
            }
    }
    system_call(SYS_CLOSE, (uint64_t)maps.file, 0, 0, 0, 0, 0);
    return best < words;
}

static void say_place(struct text *text, const struct spidl_header *table,
                      const struct spidl_action *action, uint64_t address,
                      const struct mapping *mapping)
{
    const struct spidl_origin *found = origin(table, action, address);
    if (found) {
        say(text, text_at(table, found->name));
        say(text, "+");
        address -= found->start;
    } else if (*mapping->name) {
        say(text, mapping->name);
        say(text, "+");
        address += mapping->offset - mapping->start;
    }
    say_hex(text, address);
}

static const char *call_name(const struct spidl_header *table, const struct spidl_action *action,
                             int32_t number)
{
    const uint32_t *names = at(table, (uint32_t)action->value[0]);
    if (number < 0 || (uint64_t)number >= action->value[1])
        return "";
    return text_at(table, names[number]);
}

static void tell(const struct spidl_header *table, const struct spidl_action *action,
                 const struct kernel_siginfo *info, uint64_t stack)
{
    struct text text;
    char digits[DIGITS];
    const char *name = call_name(table, action, info->number);
    const char *number = decimal(digits, (uint32_t)info->number);
    const uint64_t *words = (const uint64_t *)(uintptr_t)(stack & -(uint64_t)8);
    struct mapping callee, other;
    uint64_t from;
    const char *path = maps_path(table, action);
    text.length = 0;
    say(&text, "spidl: error[seccomp/denied]: system call ");
    say(&text, *name ? name : number);
    say(&text, " is not allowed to ");
    say(&text, text_at(table, table->program));
    say(&text, "\n  --> ");
    callee.name[0] = 0;
    int found = find(path, &callee, 0, info->address - 1, words, &from);
    say_place(&text, table, action, info->address, &callee);
    if (found && find(path, &other, &callee, 0, words, &from)) {
        say(&text, ", called from ");
        say_place(&text, table, action, from, &other);
    }
    say(&text, "\n   = help: spidl seccomp explain ");
    say(&text, text_at(table, table->program));
    say(&text, " ");
    say(&text, *name ? name : number);
    say(&text, "\n");
    struct kernel_iovec part = {text.bytes, text.length};
    if (action->what == SYS_WRITEV)
        system_call(SYS_WRITEV, 2, number_of(&part), 1, 0, 0, 0);
    else if (action->what)
        system_call(SYS_WRITE, 2, number_of(text.bytes), text.length, 0, 0, 0);
}

void spidl_stopped(int signal, const struct kernel_siginfo *info, const char *context,
                   const struct spidl_header *table)
{
    const struct spidl_action *action = at(table, table->actions);
    while (action->kind != SPIDL_KIND_REPORT && action->kind != SPIDL_KIND_JUMP)
        action++;
    if (info->code == SI_SECCOMP_ && action->kind == SPIDL_KIND_REPORT)
        tell(table, action, info, *(const uint64_t *)(context + UCONTEXT_RSP));
    /* The filter kills for this one; what the program had done cannot be in the way. */
    system_call(SYS_X32, 0, 0, 0, 0, 0, 0);
    for (;;)
        system_call(SYS_EXIT_GROUP, (uint64_t)(128 + signal), 0, 0, 0, 0, 0);
}
