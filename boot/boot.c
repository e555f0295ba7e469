/* Boot: performs the actions of an image's table in the process that the kernel has just started.
   Until CALL nothing here outlives an execve, so that every failure can take the plain way. */
#include "boot.h"

static struct finding failed(const char *reason, const char *detail, int64_t error)
{
    return (struct finding){reason, detail, error};
}

static void read_stack(struct start *start, uint64_t *stack)
{
    uint64_t *word = stack + 1 + stack[0] + 1;
    struct kernel_rlimit limit;
    start->stack = stack;
    start->argv = (char **)(stack + 1);
    start->envp = (char **)word;
    while (*word)
        word++;
    start->auxv = (struct auxv *)(word + 1);
    start->auxv_count = 1;
    while (start->auxv[start->auxv_count - 1].type != AUX_NULL)
        start->auxv_count++;
    start->program_break = (uint64_t)system_call(SYS_BRK, 0, 0, 0, 0, 0, 0);
    start->thread = (uint64_t)system_call(SYS_GETTID, 0, 0, 0, 0, 0, 0);
    start->stack_limit = 0;
    if (system_call(SYS_PRLIMIT64, 0, RLIMIT_STACK_, 0, number_of(&limit), 0, 0) == 0)
        start->stack_limit = limit.soft;
}

static struct finding map_file(const struct start *start, const struct spidl_action *action)
{
    const char *path = text_at(start->table, action->path);
    const struct spidl_segment *segment = at(start->table, action->array);
    struct kernel_stat now;
    struct finding found = failed(0, 0, 0);
    int64_t file =
        system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, number_of(path), OPEN_FLAGS, 0, 0, 0);
    if (file < 0)
        return failed("cannot open", path, file);
    int64_t error = system_call(SYS_FSTAT, (uint64_t)file, number_of(&now), 0, 0, 0, 0);
    if (error || !same_file(&now, at(start->table, action->identity)))
        found = failed("file changed", path, error);
    for (uint32_t i = 0; i < action->count && !found.reason; i++, segment++) {
        int64_t address = system_call(SYS_MMAP, segment->address, segment->length,
                                      segment->protection, MAP_PRIVATE_ | MAP_FIXED_NOREPLACE_,
                                      (uint64_t)file, segment->offset);
        /* A kernel before 4.17 takes the address as a wish only. */
        if (address != (int64_t)segment->address)
            found = failed("cannot map", path, address < 0 ? address : -EEXIST_);
    }
    system_call(SYS_CLOSE, (uint64_t)file, 0, 0, 0, 0, 0);
    return found;
}

static uint64_t anchor_value(const struct start *start, uint32_t anchor)
{
    const char *random;
    uint64_t word = 0;
    switch (anchor) {
    case SPIDL_ANCHOR_STACK:
        return number_of(start->stack);
    case SPIDL_ANCHOR_ARGC:
        return start->stack[0];
    case SPIDL_ANCHOR_ARGV:
        return number_of(start->argv);
    case SPIDL_ANCHOR_ENVP:
        return number_of(start->envp);
    case SPIDL_ANCHOR_AUXV:
        return number_of(start->auxv);
    case SPIDL_ANCHOR_RANDOM:
        return aux_value(start, AUX_RANDOM);
    case SPIDL_ANCHOR_PLATFORM:
        return aux_value(start, AUX_PLATFORM);
    case SPIDL_ANCHOR_EXECFN:
        return aux_value(start, AUX_EXECFN);
    case SPIDL_ANCHOR_VDSO:
        return aux_value(start, AUX_SYSINFO_EHDR);
    case SPIDL_ANCHOR_BRK:
        return start->program_break;
    case SPIDL_ANCHOR_THREAD:
        return start->thread;
    case SPIDL_ANCHOR_STACK_LIMIT:
        return (start->stack_limit + SPIDL_PAGE - 1) & -(uint64_t)SPIDL_PAGE;
    default: /* RANDOM0, RANDOM1: the 16 bytes need no alignment */
        random = (const char *)(uintptr_t)aux_value(start, AUX_RANDOM);
        if (random)
            __builtin_memcpy(&word, random + (anchor == SPIDL_ANCHOR_RANDOM1 ? 8 : 0), 8);
        return word;
    }
}

static struct finding patch(const struct start *start, const struct spidl_action *action)
{
    const struct spidl_word *word = at(start->table, action->array);
    for (uint32_t i = 0; i < action->count; i++, word++) {
        uint64_t value = anchor_value(start, word->anchor);
        if (value == 0 && word->anchor != SPIDL_ANCHOR_ARGC)
            return failed("the kernel gave no value for a word", 0, 0);
        if (word->anchor == SPIDL_ANCHOR_RANDOM0 || word->anchor == SPIDL_ANCHOR_RANDOM1)
            value &= word->addend;
        else
            value += word->addend;
        machine_store(word->address, value, word->width);
    }
    return failed(0, 0, 0);
}

static void set_aux(const struct start *start, uint64_t type, uint64_t value)
{
    for (struct auxv *entry = start->auxv; entry->type != AUX_NULL; entry++)
        if (entry->type == type)
            entry->value = value;
}

/* The end of a list of strings that the kernel laid out one after the other. */
static uint64_t strings_end(char **list, uint64_t none)
{
    if (!*list)
        return none;
    while (list[1])
        list++;
    return number_of(*list) + text_length(*list) + 1;
}

/* What execve of the program would have recorded (prctl(2), PR_SET_MM_MAP). A kernel that
   declines costs debuggers the program's auxiliary vector, nothing else. */
static void set_mm(const struct start *start, const struct spidl_ranges *ranges)
{
    struct kernel_mm_map map;
    map.start_code = ranges->code[0];
    map.end_code = ranges->code[1];
    map.start_data = ranges->data[0];
    map.end_data = ranges->data[1];
    map.start_brk = start->program_break;
    map.brk = (uint64_t)system_call(SYS_BRK, 0, 0, 0, 0, 0, 0);
    map.start_stack = number_of(start->stack);
    map.arg_start = *start->argv ? number_of(*start->argv) : map.start_stack;
    map.arg_end = strings_end(start->argv, map.arg_start);
    map.env_start = *start->envp ? number_of(*start->envp) : map.arg_end;
    map.env_end = strings_end(start->envp, map.env_start);
    map.auxv = (uint64_t *)start->auxv;
    map.auxv_size = (uint32_t)(start->auxv_count * sizeof(struct auxv));
    map.exe_fd = UINT32_MAX;
    if (system_call(SYS_PRCTL, PR_SET_MM_, PR_SET_MM_MAP_, number_of(&map), sizeof map, 0, 0) == 0)
        return;
    /* Kernels up to 5.9 want the data below the break, where the image's own data lies. */
    map.start_data = map.end_data = map.start_brk - 1;
    system_call(SYS_PRCTL, PR_SET_MM_, PR_SET_MM_MAP_, number_of(&map), sizeof map, 0, 0);
}

static void identity(const struct start *start, const struct spidl_action *action)
{
    const char *path = text_at(start->table, action->path);
    const char *name = path;
    for (const char *c = path; *c; c++)
        if (*c == '/')
            name = c + 1;
    set_aux(start, AUX_PHDR, action->value[0]);
    set_aux(start, AUX_PHNUM, action->value[1]);
    set_aux(start, AUX_BASE, action->value[2]);
    set_aux(start, AUX_ENTRY, action->value[3]);
    set_aux(start, AUX_EXECFN, number_of(path));
    system_call(SYS_PRCTL, PR_SET_NAME_, number_of(name), 0, 0, 0, 0);
    set_mm(start, at(start->table, action->array));
}

static struct finding filter(const struct spidl_header *table, const struct spidl_action *action)
{
    struct kernel_fprog program;
    program.length = (uint16_t)action->count;
    program.filter = at(table, action->array);
    int64_t error = system_call(SYS_PRCTL, PR_SET_NO_NEW_PRIVS_, 1, 0, 0, 0, 0);
    if (!error)
        error = system_call(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER_, action->value[0],
                            number_of(&program), 0, 0, 0);
    return error ? failed("cannot install the filter", 0, error) : failed(0, 0, 0);
}

static struct finding handle_stops(void)
{
    int64_t error = report();
    return error ? failed("cannot handle SIGSYS", 0, error) : failed(0, 0, 0);
}

/* The filters that wait for the program's entry; gives where that is. Constructors may have taken
   SIGSYS meanwhile. */
uint64_t spidl_enter(const struct spidl_header *table)
{
    const struct spidl_action *action = at(table, table->actions);
    uint64_t entry = 0;
    for (uint32_t i = 0; i < table->action_count; i++, action++) {
        struct finding found = {0, 0, 0};
        if (action->kind == SPIDL_KIND_REPORT)
            found = handle_stops();
        if (action->kind == SPIDL_KIND_FILTER && action->value[1]) {
            found = filter(table, action);
            entry = action->value[1];
        }
        if (found.reason)
            die("policy", found.reason, found.detail, found.error, STATUS_REFUSED);
    }
    return entry;
}

static struct finding perform(struct start *start, const struct spidl_action *action)
{
    const uint64_t *value = action->value;
    uint64_t result;
    int64_t error;
    switch (action->kind) {
    case SPIDL_KIND_CHECK:
        return check(start, action);
    case SPIDL_KIND_MAP_FILE:
        return map_file(start, action);
    case SPIDL_KIND_PATCH:
        return patch(start, action);
    case SPIDL_KIND_CALL_STORE:
        result = machine_call(value[0], start->stack[0], start->argv, start->envp);
        machine_store(value[1], result, 8);
        break;
    case SPIDL_KIND_SET_THREAD:
        error = system_call(action->what, value[0], value[1], value[2], value[3], 0, 0);
        if (error < 0)
            return failed("cannot set up the thread", 0, error);
        break;
    case SPIDL_KIND_PROTECT:
        error = system_call(SYS_MPROTECT, value[0], value[1], action->what, 0, 0, 0);
        if (error)
            return failed("cannot protect", 0, error);
        break;
    case SPIDL_KIND_FILTER:
        /* It outlives execve, and must never be left out: from here on a failure is final. */
        start->policy = 1;
        return action->value[1] ? failed(0, 0, 0) : filter(start->table, action);
    case SPIDL_KIND_REPORT:
        return handle_stops();
    case SPIDL_KIND_GATE: /* read when a library is opened (open.c) */
        break;
    case SPIDL_KIND_CALL:
        start->called = 1;
        machine_call(value[0], start->stack[0], start->argv, start->envp);
        break;
    case SPIDL_KIND_IDENTITY:
        identity(start, action);
        break;
    default:
        spidl_jump(start->stack, value[0], value[1], value[2]);
    }
    return failed(0, 0, 0);
}

void spidl_boot(uint64_t *stack, const struct spidl_header *table, const void *code)
{
    struct start start;
    int64_t index;
    const char *fault = table_fault(table, number_of(code), &index);
    if (fault)
        die("table", fault, 0, 0, 127);
    start.table = table;
    start.policy = (table->flags & SPIDL_FLAG_POLICY) != 0;
    start.called = 0;
    start.checking = 1;
    read_stack(&start, stack);
    for (const struct spidl_action *action = at(table, table->actions);; action++) {
        start.checking &= action->kind == SPIDL_KIND_CHECK || action->kind == SPIDL_KIND_MAP_FILE;
        struct finding found = perform(&start, action);
        if (found.reason)
            fail(&start, found);
    }
}
