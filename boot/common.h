/* What boot and the launcher share: texts, files, messages, what steers a linker. */
#ifndef SPIDL_COMMON_H
#define SPIDL_COMMON_H

#include "actions.h"
#include "system.h"

enum { PARTS = 24, DIGITS = 24 };

/* A message in parts, written in one call. */
struct line {
    struct kernel_iovec part[PARTS];
    uint32_t count;
};

static inline uint64_t text_length(const char *text)
{
    uint64_t length = 0;
    while (text[length])
        length++;
    return length;
}

static inline int same_text(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* What follows the prefix, or 0 where the text does not start with it. */
static inline const char *after_prefix(const char *text, const char *prefix)
{
    while (*prefix && *text == *prefix)
        text++, prefix++;
    return *prefix ? 0 : text;
}

/* The variables that glibc's rtld and malloc read; see `process_envvars` in elf/rtld.c. An entry
   without `=` is none. */
static inline int steers_linker(const char *entry)
{
    const char *c = entry;
    while (*c && *c != '=')
        c++;
    return *c && (after_prefix(entry, "LD_") || after_prefix(entry, "MALLOC_") ||
                  after_prefix(entry, "GLIBC_TUNABLES="));
}

static inline int same_file(const struct kernel_stat *now, const struct spidl_file_identity *then)
{
    return now->device == then->device && now->inode == then->inode &&
           (uint64_t)now->size == then->size && now->mtime[0] == then->mtime[0] &&
           now->mtime[1] == then->mtime[1] && now->ctime[0] == then->ctime[0] &&
           now->ctime[1] == then->ctime[1];
}

static inline void add(struct line *line, const char *text)
{
    if (text && line->count < PARTS) {
        line->part[line->count].start = text;
        line->part[line->count].length = text_length(text);
        line->count++;
    }
}

/* Decimal digits at the end of a buffer of DIGITS bytes. */
static inline const char *decimal(char *buffer, uint64_t number)
{
    char *digit = buffer + DIGITS - 1;
    *digit = 0;
    do
        *--digit = (char)('0' + number % 10);
    while (number /= 10);
    return digit;
}

static inline void show(const struct line *line)
{
    system_call(SYS_WRITEV, 2, number_of(line->part), line->count, 0, 0, 0);
}

#endif
