/* Is the table well formed? Everything that boot later follows is checked here, once. */
#include "boot.h"

enum { VDSO_BYTES = 4096 }; /* the vDSO has at least one page */
enum { FILTER_INSTRUCTIONS = 4096, FILTER_FLAGS = 7 }; /* BPF_MAXINSNS; TSYNC, LOG, SPEC_ALLOW */

static int array_fits(const struct spidl_header *table, uint32_t offset, uint32_t count,
                      uint64_t size, uint64_t align)
{
    return offset % align == 0 && offset <= table->size && count <= (table->size - offset) / size;
}

/* The table's last byte is NUL, so a string that starts inside also ends inside. */
static int text_fits(const struct spidl_header *table, uint32_t offset)
{
    return offset < table->size;
}

static int in_spans(const struct spidl_header *table, uint64_t address, uint64_t length)
{
    const struct spidl_span *span = at(table, table->spans);
    for (uint32_t i = 0; i < table->span_count; i++, span++)
        if (address >= span->start && address < span->end && length <= span->end - address)
            return 1;
    return 0;
}

/* mmap and mprotect touch whole pages; so are spans, which therefore hold the last one too. */
static int pages_in_spans(const struct spidl_header *table, uint64_t address, uint64_t length)
{
    return address % SPIDL_PAGE == 0 && length != 0 && in_spans(table, address, length);
}

static int is_function(uint64_t address)
{
    return address >= SPIDL_PAGE && address < SPIDL_ADDRESS_END;
}

static const char *header_fault(const struct spidl_header *table, uint64_t code)
{
    if (table->magic != SPIDL_MAGIC)
        return "no action table";
    if (table->version != SPIDL_VERSION)
        return "action table of another version";
    if (table->size < sizeof *table || table->size > UINT32_MAX)
        return "bad table size";
    /* msync of clean or private pages does nothing, but fails where no memory is mapped. */
    uint64_t pages = (table->size + SPIDL_PAGE - 1) & -(uint64_t)SPIDL_PAGE;
    if (system_call(SYS_MSYNC, number_of(table), pages, MS_ASYNC_, 0, 0, 0) != 0)
        return "table size beyond the image";
    if (*text_at(table, (uint32_t)table->size - 1) != 0)
        return "unterminated table";
    if (!text_fits(table, table->program) || *text_at(table, table->program) == 0)
        return "bad program path";
    if (!text_fits(table, table->front) || !text_fits(table, table->stale))
        return "bad front";
    if (table->flags & ~(uint32_t)SPIDL_FLAG_POLICY)
        return "unknown flags";
    if (!array_fits(table, table->actions, table->action_count, sizeof(struct spidl_action), 8) ||
        table->action_count == 0)
        return "bad action array";
    if (!array_fits(table, table->spans, table->span_count, sizeof(struct spidl_span), 8))
        return "bad span array";
    const struct spidl_span *span = at(table, table->spans);
    uint64_t end = number_of(table) + table->size;
    for (uint32_t i = 0; i < table->span_count; i++, span++)
        if (span->start % SPIDL_PAGE || span->end % SPIDL_PAGE || span->start < SPIDL_PAGE ||
            span->start >= span->end || span->end > SPIDL_ADDRESS_END ||
            (span->start < end && code < span->end))
            return "bad span";
    return 0;
}

static const char *check_fault(const struct spidl_header *table, const struct spidl_action *action)
{
    switch (action->what) {
    case SPIDL_CHECK_ENVIRONMENT:
        if (!array_fits(table, action->array, action->count, 4, 4))
            return "array outside the table";
        for (const uint32_t *text = at(table, action->array), *end = text + action->count;
             text < end; text++)
            if (!text_fits(table, *text))
                return "string outside the table";
        return 0;
    case SPIDL_CHECK_AUXV:
    case SPIDL_CHECK_STACK_LIMIT:
        return 0;
    case SPIDL_CHECK_CPUID:
        if (action->count != 1 ||
            !array_fits(table, action->array, 1, sizeof(struct spidl_cpuid), 4))
            return "array outside the table";
        return 0;
    case SPIDL_CHECK_VDSO:
        if (!array_fits(table, action->array, action->count, 1, 1))
            return "array outside the table";
        if (action->value[0] > VDSO_BYTES || action->count > VDSO_BYTES - action->value[0])
            return "bytes outside the vDSO's first page";
        return 0;
    case SPIDL_CHECK_FILE:
        if (!array_fits(table, action->identity, 1, sizeof(struct spidl_file_identity), 8))
            return "array outside the table";
        /* fall through */
    case SPIDL_CHECK_ABSENT:
        return text_fits(table, action->path) ? 0 : "string outside the table";
    default:
        return "unknown check";
    }
}

static const char *map_fault(const struct spidl_header *table, const struct spidl_action *action)
{
    if (!text_fits(table, action->path))
        return "string outside the table";
    if (!array_fits(table, action->identity, 1, sizeof(struct spidl_file_identity), 8) ||
        !array_fits(table, action->array, action->count, sizeof(struct spidl_segment), 8))
        return "array outside the table";
    const struct spidl_segment *segment = at(table, action->array);
    for (uint32_t i = 0; i < action->count; i++, segment++) {
        if (!pages_in_spans(table, segment->address, segment->length))
            return "address outside the spans";
        if (segment->offset % SPIDL_PAGE || segment->offset > INT64_MAX - SPIDL_ADDRESS_END ||
            segment->protection > 7)
            return "bad segment";
    }
    return 0;
}

static const char *patch_fault(const struct spidl_header *table, const struct spidl_action *action)
{
    if (!array_fits(table, action->array, action->count, sizeof(struct spidl_word), 8))
        return "array outside the table";
    const struct spidl_word *word = at(table, action->array);
    for (uint32_t i = 0; i < action->count; i++, word++) {
        if (word->anchor == 0 || word->anchor > SPIDL_ANCHOR_LAST)
            return "unknown anchor";
        if (word->width != 4 && word->width != 8)
            return "bad width";
        if (!in_spans(table, word->address, word->width))
            return "address outside the spans";
    }
    return 0;
}

static const char *thread_fault(const struct spidl_action *action)
{
    switch (action->what) {
    case SPIDL_CALL_ARCH_PRCTL:
        if (action->value[0] != ARCH_SET_FS_ && action->value[0] != ARCH_SET_GS_)
            return "bad arch_prctl";
        return 0;
    case SPIDL_CALL_SET_TID_ADDRESS:
    case SPIDL_CALL_SET_ROBUST_LIST:
    case SPIDL_CALL_RSEQ:
        return 0;
    default:
        return "unknown thread call";
    }
}

static const char *report_fault(const struct spidl_header *table, const struct spidl_action *action)
{
    if (action->what != 0 && action->what != SYS_WRITE && action->what != SYS_WRITEV)
        return "bad report";
    if (action->value[0] > UINT32_MAX || action->value[1] > UINT32_MAX ||
        !array_fits(table, (uint32_t)action->value[0], (uint32_t)action->value[1], 4, 4) ||
        !array_fits(table, action->array, action->count, sizeof(struct spidl_origin), 8))
        return "array outside the table";
    const uint32_t *name = at(table, (uint32_t)action->value[0]);
    for (uint64_t i = 0; i < action->value[1]; i++)
        if (!text_fits(table, name[i]))
            return "string outside the table";
    const struct spidl_origin *origin = at(table, action->array);
    for (uint32_t i = 0; i < action->count; i++)
        if (!text_fits(table, origin[i].name))
            return "string outside the table";
    return 0;
}

/* What open.c follows for each opening: its names, its files, the numbers of those who may ask. */
static const char *gate_fault(const struct spidl_header *table, const struct spidl_action *action)
{
    const uint64_t *value = action->value;
    if (!is_function(value[0]) || !is_function(value[1]))
        return "bad function address";
    if (value[2] > UINT32_MAX || value[3] > UINT32_MAX ||
        !array_fits(table, (uint32_t)value[2], (uint32_t)value[3], sizeof(struct spidl_origin),
                    8) ||
        !array_fits(table, action->array, action->count, sizeof(struct spidl_opening), 8))
        return "array outside the table";
    const struct spidl_origin *origin = at(table, (uint32_t)value[2]);
    for (uint64_t i = 0; i < value[3]; i++)
        if (!text_fits(table, origin[i].name))
            return "string outside the table";
    const struct spidl_opening *opening = at(table, action->array);
    for (uint32_t i = 0; i < action->count; i++, opening++) {
        if (opening->file_count == 0 ||
            !array_fits(table, opening->names, opening->name_count, 4, 4) ||
            !array_fits(table, opening->openers, opening->opener_count, 4, 4) ||
            !array_fits(table, opening->files, opening->file_count, sizeof(struct spidl_opened), 8))
            return "array outside the table";
        const uint32_t *name = at(table, opening->names);
        for (uint32_t j = 0; j < opening->name_count; j++)
            if (!text_fits(table, name[j]))
                return "string outside the table";
        const struct spidl_opened *file = at(table, opening->files);
        for (uint32_t j = 0; j < opening->file_count; j++, file++) {
            if (!text_fits(table, file->path))
                return "string outside the table";
            /* The first is the file itself; of others 0 says that nothing may be there. */
            if ((j == 0 || file->identity) &&
                (file->identity == 0 ||
                 !array_fits(table, file->identity, 1, sizeof(struct spidl_file_identity), 8)))
                return "array outside the table";
        }
    }
    return 0;
}

static const char *action_fault(const struct spidl_header *table, const struct spidl_action *action)
{
    switch (action->kind) {
    case SPIDL_KIND_CHECK:
        return check_fault(table, action);
    case SPIDL_KIND_MAP_FILE:
        return map_fault(table, action);
    case SPIDL_KIND_PATCH:
        return patch_fault(table, action);
    case SPIDL_KIND_CALL_STORE:
        if (!in_spans(table, action->value[1], 8))
            return "address outside the spans";
        /* fall through */
    case SPIDL_KIND_CALL:
    case SPIDL_KIND_JUMP:
        return is_function(action->value[0]) ? 0 : "bad function address";
    case SPIDL_KIND_SET_THREAD:
        return thread_fault(action);
    case SPIDL_KIND_PROTECT:
        if (!pages_in_spans(table, action->value[0], action->value[1]))
            return "address outside the spans";
        return action->what <= 7 ? 0 : "bad protection";
    case SPIDL_KIND_REPORT:
        return report_fault(table, action);
    case SPIDL_KIND_GATE:
        return gate_fault(table, action);
    case SPIDL_KIND_FILTER:
        if (action->value[1] && !is_function(action->value[1]))
            return "bad function address";
        if (action->count == 0 || action->count > FILTER_INSTRUCTIONS ||
            (action->value[0] & ~(uint64_t)FILTER_FLAGS))
            return "bad filter";
        if (!array_fits(table, action->array, action->count, 8, 8))
            return "array outside the table";
        return 0;
    case SPIDL_KIND_IDENTITY:
        if (!text_fits(table, action->path))
            return "string outside the table";
        if (action->count != 1 ||
            !array_fits(table, action->array, 1, sizeof(struct spidl_ranges), 8))
            return "array outside the table";
        return 0;
    default:
        return "unknown action";
    }
}

const char *table_fault(const struct spidl_header *table, uint64_t code, int64_t *index)
{
    *index = -1;
    const char *fault = header_fault(table, code);
    if (fault)
        return fault;
    const struct spidl_action *actions = at(table, table->actions);
    for (uint32_t i = 0; i < table->action_count; i++) {
        *index = i;
        fault = action_fault(table, &actions[i]);
        if (fault)
            return fault;
        if ((actions[i].kind == SPIDL_KIND_JUMP) != (i == table->action_count - 1))
            return "JUMP must be the last action";
    }
    return 0;
}
