/* The checks: is this start like the one that was linked? */
#include "boot.h"

static struct finding differs(const char *reason, const char *detail)
{
    return (struct finding){reason, detail, 0};
}

static const struct finding as_linked = {0, 0, 0};

uint64_t aux_value(const struct start *start, uint64_t type)
{
    for (const struct auxv *entry = start->auxv; entry->type != AUX_NULL; entry++)
        if (entry->type == type)
            return entry->value;
    return 0;
}

static struct finding check_environment(const struct start *start,
                                        const struct spidl_action *action)
{
    const uint32_t *linked = at(start->table, action->array);
    uint64_t count = 0;
    for (char **now = start->envp; *now; now++) {
        if (!steers_linker(*now))
            continue;
        uint32_t i = 0;
        while (i < action->count && !same_text(*now, text_at(start->table, linked[i])))
            i++;
        if (i == action->count)
            return differs("environment variable not set when linked", *now);
        count++;
    }
    for (uint32_t i = 0; i < action->count; i++) {
        const char *variable = text_at(start->table, linked[i]);
        char **now = start->envp;
        while (*now && !same_text(*now, variable))
            now++;
        if (!*now)
            return differs("environment variable set when linked", variable);
    }
    /* Equal sets of another size hold one variable twice: who wins is the reader's choice. */
    if (count != action->count)
        return differs("environment variable set twice", 0);
    return as_linked;
}

static struct finding check_cpuid(const struct start *start, const struct spidl_action *action)
{
    const struct spidl_cpuid *linked = at(start->table, action->array);
    uint32_t now[4];
    machine_cpuid(linked->leaf, linked->subleaf, now);
    for (int i = 0; i < 4; i++)
        if ((now[i] ^ linked->values[i]) & linked->masks[i])
            return differs("another processor", 0);
    return as_linked;
}

static struct finding check_vdso(const struct start *start, const struct spidl_action *action)
{
    const char *vdso = (const char *)(uintptr_t)aux_value(start, AUX_SYSINFO_EHDR);
    const char *linked = at(start->table, action->array);
    if (!vdso != (action->count == 0))
        return differs("another kernel", vdso ? "vDSO present" : "no vDSO");
    for (uint32_t i = 0; i < action->count; i++)
        if (vdso[action->value[0] + i] != linked[i])
            return differs("another kernel", "vDSO differs");
    return as_linked;
}

int64_t stat_path(const char *path, struct kernel_stat *now)
{
    return system_call(SYS_NEWFSTATAT, (uint64_t)AT_FDCWD_, number_of(path), number_of(now), 0, 0,
                       0);
}

static struct finding check_file(const struct start *start, const struct spidl_action *action)
{
    const char *path = text_at(start->table, action->path);
    struct kernel_stat now;
    int64_t error = stat_path(path, &now);
    if (error)
        return (struct finding){"cannot open", path, error};
    if (!same_file(&now, at(start->table, action->identity)))
        return differs("file changed", path);
    return as_linked;
}

static struct finding check_absent(const struct start *start, const struct spidl_action *action)
{
    const char *path = text_at(start->table, action->path);
    struct kernel_stat now;
    int64_t error = stat_path(path, &now);
    if (error) /* what cannot be looked at cannot be loaded */
        return as_linked;
    return differs("file absent when linked", path);
}

struct finding check(const struct start *start, const struct spidl_action *action)
{
    switch (action->what) {
    case SPIDL_CHECK_ENVIRONMENT:
        return check_environment(start, action);
    case SPIDL_CHECK_AUXV:
        if (aux_value(start, action->value[0]) != action->value[1])
            return differs("another auxiliary vector", 0);
        return as_linked;
    case SPIDL_CHECK_CPUID:
        return check_cpuid(start, action);
    case SPIDL_CHECK_VDSO:
        return check_vdso(start, action);
    case SPIDL_CHECK_STACK_LIMIT:
        if (start->stack_limit < action->value[0] || start->stack_limit > action->value[1])
            return differs("another stack limit", 0);
        return as_linked;
    case SPIDL_CHECK_FILE:
        return check_file(start, action);
    default:
        return check_absent(start, action);
    }
}
