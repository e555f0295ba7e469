/* A filter stopped a call: say which one and who made it, and die of it. */
#include "boot.h"

enum { WORDS = 512, TEXT = 1024 };

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

/* The first return address on the stack that lies in another object than the call. Only the page
   of the stack pointer is sure to be there. */
static uint64_t caller(const struct spidl_header *table, const struct spidl_action *action,
                       uint64_t stack, const char *callee)
{
    const uint64_t *word = (const uint64_t *)(uintptr_t)(stack & -(uint64_t)8);
    for (int i = 0; i < WORDS && (i == 0 || number_of(word) % SPIDL_PAGE != 0); i++, word++) {
        const struct spidl_origin *found = origin(table, action, *word);
        if (found && !same_text(text_at(table, found->name), callee))
            return *word;
    }
    return 0;
}

static void say_place(struct text *text, const struct spidl_header *table,
                      const struct spidl_action *action, uint64_t address)
{
    const struct spidl_origin *found = origin(table, action, address);
    if (found) {
        say(text, text_at(table, found->name));
        say(text, "+");
        address -= found->start;
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
    const struct spidl_origin *made = origin(table, action, info->address - 1);
    uint64_t from = caller(table, action, stack, made ? text_at(table, made->name) : "");
    text.length = 0;
    say(&text, "spidl: error[seccomp/denied]: system call ");
    say(&text, *name ? name : number);
    say(&text, " is not allowed to ");
    say(&text, text_at(table, table->program));
    say(&text, "\n  --> ");
    say_place(&text, table, action, info->address);
    if (from) {
        say(&text, ", called from ");
        say_place(&text, table, action, from);
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
