/* A library is opened at run time: every dlopen of glibc's comes here on its way to ld.so, from
   dlopen and dlmopen, name services, converters. First who asks, then which file it would be, then
   whether that file is still the one that was linked; at last the real function.

   This code runs in the program's threads, with nothing of its own but the stack. */
#include "boot.h"

enum { RTLD_NOLOAD_ = 4, NEW_NAMESPACE = -1, CALLERS_NAMESPACE = -2, TEXT = 768, NAME = 256 };

/* What is asked for, and what stands against it. */
struct asked {
    const struct spidl_header *table;
    const struct spidl_action *gate;
    const char *file;
    uint64_t caller;
    int fresh; /* into a namespace that shares nothing with the program's */
    const char *reason, *detail;
};

static const struct spidl_action *gate_of(const struct spidl_header *table)
{
    const struct spidl_action *action = at(table, table->actions);
    while (action->kind != SPIDL_KIND_GATE)
        action++;
    return action;
}

static int has_slash(const char *name)
{
    while (*name && *name != '/')
        name++;
    return *name != 0;
}

/* The number of the linked object that asks, or of one behind the last: code that came later. */
static uint32_t asker(const struct asked *asked)
{
    const struct spidl_origin *origin = at(asked->table, (uint32_t)asked->gate->value[2]);
    uint32_t count = (uint32_t)asked->gate->value[3], i = 0;
    while (i < count && (asked->caller < origin[i].start || asked->caller >= origin[i].end))
        i++;
    return i;
}

static int may_ask(const struct asked *asked, const struct spidl_opening *opening)
{
    const uint32_t *opener = at(asked->table, opening->openers);
    uint32_t who = asker(asked);
    for (uint32_t i = 0; i < opening->opener_count; i++)
        if (opener[i] == who)
            return 1;
    return 0;
}

static int is_named(const struct asked *asked, const struct spidl_opening *opening)
{
    const uint32_t *name = at(asked->table, opening->names);
    for (uint32_t i = 0; i < opening->name_count; i++)
        if (same_text(asked->file, text_at(asked->table, name[i])))
            return 1;
    return 0;
}

/* Whether a path leads to the file of an opening, by whatever way. */
static int is_file(const struct asked *asked, const struct spidl_opening *opening,
                   const struct kernel_stat *now)
{
    const struct spidl_opened *first = at(asked->table, opening->files);
    const struct spidl_file_identity *then = at(asked->table, first->identity);
    return now->device == then->device && now->inode == then->inode;
}

/* The opening that is meant, one that the asker may have if there are several; 0 and a reason. */
static const struct spidl_opening *opening_of(struct asked *asked)
{
    const struct spidl_opening *opening = at(asked->table, asked->gate->array), *denied = 0;
    struct kernel_stat now;
    int there = has_slash(asked->file) && stat_path(asked->file, &now) == 0;
    for (uint32_t i = 0; i < asked->gate->count; i++, opening++) {
        if (!is_named(asked, opening) && !(there && is_file(asked, opening, &now)))
            continue;
        if (may_ask(asked, opening))
            return opening;
        denied = opening;
    }
    asked->reason = "it is not among the libraries that may be opened";
    if (denied) {
        uint32_t who = asker(asked);
        const struct spidl_origin *origin = at(asked->table, (uint32_t)asked->gate->value[2]);
        asked->reason = "this may not be opened by ";
        asked->detail = who < asked->gate->value[3] ? text_at(asked->table, origin[who].name)
                                                    : "code that was not linked";
    }
    return 0;
}

/* Whether all that the opening brings is as linked: its file, and the libraries that this needs. */
static int holds(struct asked *asked, const struct spidl_opening *opening)
{
    const struct spidl_opened *file = at(asked->table, opening->files);
    struct kernel_stat now;
    for (uint32_t i = 0; i < opening->file_count; i++, file++) {
        const char *path = text_at(asked->table, file->path);
        if (file->linked && !asked->fresh)
            continue; /* it is loaded, and was checked when it was mapped */
        int64_t error = stat_path(path, &now);
        if (file->identity && (error || !same_file(&now, at(asked->table, file->identity)))) {
            asked->reason = "not as it was linked: ";
            asked->detail = path;
            return 0;
        }
        if (!file->identity && !error) {
            asked->reason = "was not there when this was linked: ";
            asked->detail = path;
            return 0;
        }
    }
    return 1;
}

static char *append(char *to, const char *end, const char *text)
{
    while (*text && to < end)
        *to++ = *text++;
    *to = 0;
    return to;
}

/* An error as ld.so makes it: dlopen gives NULL, dlerror the text. Nothing is looked for. */
static _Noreturn void refuse(const struct asked *asked)
{
    char name[NAME], text[TEXT], *to = text;
    const char *end = text + sizeof text - 1;
    append(name, name + sizeof name - 1, asked->file);
    to = append(to, end, "refused by the image's policy: ");
    to = append(to, end, asked->reason);
    to = append(to, end, asked->detail ? asked->detail : "");
    to = append(to, end, " (spidl policy check ");
    to = append(to, end, text_at(asked->table, asked->table->program));
    append(to, end, ")");
    machine_error(asked->gate->value[1], name, text);
}

void *spidl_open(const char *file, int mode, const void *caller, int64_t space, int argc,
                 char **argv, char **envp)
{
    const struct spidl_header *table = machine_table();
    struct asked asked = {table, gate_of(table), file, number_of(caller), 0, 0, 0};
    uint64_t real = asked.gate->value[0];
    if (!file || !*file || mode & RTLD_NOLOAD_)
        return machine_open(real, file, mode, caller, space, argc, argv, envp);
    /* What is loaded already is found, and opened once more, without anything being mapped. */
    if (space != NEW_NAMESPACE) {
        void *known =
            machine_open(real, file, mode | RTLD_NOLOAD_, caller, space, argc, argv, envp);
        if (known)
            return known;
    }
    asked.fresh = space != 0 && !(space == CALLERS_NAMESPACE &&
                                  asker(&asked) < asked.gate->value[3]);
    const struct spidl_opening *opening = opening_of(&asked);
    if (!opening || !holds(&asked, opening))
        refuse(&asked);
    /* A name is not looked for again: what was found for it when this was linked was checked. */
    if (is_named(&asked, opening))
        file = text_at(table, ((const struct spidl_opened *)at(table, opening->files))->path);
    void *opened = machine_open(real, file, mode, caller, space, argc, argv, envp);
    if (!holds(&asked, opening))
        die("policy", "a library was replaced while it was opened", asked.detail, 0,
            STATUS_REFUSED);
    return opened;
}
