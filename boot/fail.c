/* When the image cannot be used: the plain way, or a message and the end. */
#include "boot.h"

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

static void say(const struct start *start, const char *what, const struct finding *finding)
{
    struct line line;
    char digits[DIGITS];
    if (!is_verbose(start->envp))
        return;
    line.count = 0;
    add(&line, what);
    add_finding(&line, finding, digits);
    show(&line);
}

/* An image that is kept asks the launcher for a new link. The variable takes the place of the
   environment's end and of the word behind it, which nobody reads any more. */
static void ask_front(const struct start *start, const struct finding *finding)
{
    const struct spidl_header *table = start->table;
    if (!table->front || !start->checking)
        return;
    say(start, "spidl: not as linked: ", finding);
    char **end = start->envp;
    while (*end)
        end++;
    char *behind = end[1];
    end[0] = (char *)(uintptr_t)text_at(table, table->stale);
    end[1] = 0;
    system_call(SYS_EXECVE, number_of(text_at(table, table->front)), number_of(start->argv),
                number_of(start->envp), 0, 0, 0);
    end[0] = 0;
    end[1] = behind;
}

void fail(const struct start *start, struct finding finding)
{
    const char *program = text_at(start->table, start->table->program);
    int loops = is_this_image(program);
    if (!loops)
        ask_front(start, &finding);
    if (start->policy)
        die("policy", finding.reason, finding.detail, finding.error, STATUS_REFUSED);
    if (start->called)
        die("late", finding.reason, finding.detail, finding.error, STATUS_BROKEN);
    say(start, "spidl: plain way: ", &finding);
    if (loops)
        die("loop", finding.reason, finding.detail, finding.error, STATUS_BROKEN);
    int64_t error = system_call(SYS_EXECVE, number_of(program), number_of(start->argv),
                                number_of(start->envp), 0, 0, 0);
    die("exec", "cannot execute the program", program, error, STATUS_BROKEN);
}
