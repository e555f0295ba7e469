/* Messages in the form of Spidl's others: a headline with a code, a place, a help line. */
#include "launcher.h"

static void add_error(struct line *line, int64_t error, char *digits)
{
    static const struct {
        int64_t number;
        const char *text;
    } known[] = {
        {1, "not permitted"},     {2, "no such file"},      {7, "too many arguments"},
        {8, "not an executable"}, {13, "permission denied"}, {12, "out of memory"},
    };
    if (!error)
        return;
    add(line, ": ");
    for (uint32_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].number == -error) {
            add(line, known[i].text);
            return;
        }
    add(line, "errno ");
    add(line, decimal(digits, -(uint64_t)error));
}

static void tell(const char *severity, const char *code, const char *text, const char *place,
                 int64_t error, const char *note, const char *help)
{
    struct line line;
    char digits[DIGITS];
    line.count = 0;
    add(&line, "spidl: ");
    add(&line, severity);
    add(&line, "[start/");
    add(&line, code);
    add(&line, "]: ");
    add(&line, text);
    add_error(&line, error, digits);
    if (place) {
        add(&line, "\n  --> ");
        add(&line, place);
    }
    if (note) {
        add(&line, "\n   = ");
        add(&line, note);
    }
    if (help) {
        add(&line, "\n   = help: ");
        add(&line, help);
    }
    add(&line, "\n");
    show(&line);
}

void leave(int status)
{
    for (;;)
        system_call(SYS_EXIT_GROUP, (uint64_t)status, 0, 0, 0, 0, 0);
}

void die(const char *code, const char *text, const char *place, int64_t error, const char *help,
         int status)
{
    tell("error", code, text, place, error, 0, help);
    leave(status);
}

void warn(const char *code, const char *text, const char *place, int64_t error)
{
    tell("warning", code, text, place, error,
         "the program starts the plain way, under the system's linker",
         "SPIDL_VERBOSE=1 says more; `spidl status` and `spidl cache verify` look at what is kept");
}

void say_plain(const char *reason, const char *detail)
{
    struct line line;
    if (!variable("SPIDL_VERBOSE"))
        return;
    line.count = 0;
    add(&line, "spidl: plain way: ");
    add(&line, reason);
    if (detail && *detail) {
        add(&line, ": ");
        add(&line, detail);
    }
    add(&line, "\n");
    show(&line);
}
