/* When the image cannot be used: the plain way, or a message and the end. */
#include "boot.h"

enum { STATUS_REFUSED = 126, STATUS_BROKEN = 127 };
enum { PARTS = 10, DIGITS = 24 };

struct line {
    struct kernel_iovec part[PARTS];
    uint32_t count;
};

static void add(struct line *line, const char *text)
{
    if (text && line->count < PARTS) {
        line->part[line->count].start = text;
        line->part[line->count].length = text_length(text);
        line->count++;
    }
}

/* Decimal digits at the end of a buffer of DIGITS bytes. */
static const char *decimal(char *buffer, uint64_t number)
{
    char *digit = buffer + DIGITS - 1;
    *digit = 0;
    do
        *--digit = (char)('0' + number % 10);
    while (number /= 10);
    return digit;
}

static void show(const struct line *line)
{
    system_call(SYS_WRITEV, 2, number_of(line->part), line->count, 0, 0, 0);
}

static void add_finding(struct line *line, const struct finding *finding, char *digits)
{
    add(line, finding->reason);
    if (finding->detail) {
        add(line, ": ");
        add(line, finding->detail);
    }
    if (finding->error < 0) {
        add(line, " (errno ");
        add(line, decimal(digits, -(uint64_t)finding->error));
        add(line, ")");
    }
    add(line, "\n");
}

void die(const char *code, const char *text, const char *detail, int64_t error, int status)
{
    struct line line;
    char digits[DIGITS];
    struct finding finding = {text, detail, error};
    line.count = 0;
    add(&line, "spidl: error[start/");
    add(&line, code);
    add(&line, "]: ");
    add_finding(&line, &finding, digits);
    show(&line);
    for (;;)
        system_call(SYS_EXIT_GROUP, (uint64_t)status, 0, 0, 0, 0, 0);
}

/* An image installed at the program's own path would start itself for ever. */
static int is_this_image(const char *program)
{
    struct kernel_stat other, self;
    return stat_path(program, &other) == 0 && stat_path("/proc/self/exe", &self) == 0 &&
           other.device == self.device && other.inode == self.inode;
}

static int is_verbose(char **envp)
{
    for (; *envp; envp++)
        if (same_text(*envp, "SPIDL_VERBOSE=1"))
            return 1;
    return 0;
}

void fail(const struct start *start, struct finding finding)
{
    if (start->policy)
        die("policy", finding.reason, finding.detail, finding.error, STATUS_REFUSED);
    if (start->called)
        die("late", finding.reason, finding.detail, finding.error, STATUS_BROKEN);
    const char *program = text_at(start->table, start->table->program);
    if (is_verbose(start->envp)) {
        struct line line;
        char digits[DIGITS];
        line.count = 0;
        add(&line, "spidl: plain way: ");
        add_finding(&line, &finding, digits);
        show(&line);
    }
    if (is_this_image(program))
        die("loop", finding.reason, finding.detail, finding.error, STATUS_BROKEN);
    int64_t error = system_call(SYS_EXECVE, number_of(program), number_of(start->argv),
                                number_of(start->envp), 0, 0, 0);
    die("exec", "cannot execute the program", program, error, STATUS_BROKEN);
}
