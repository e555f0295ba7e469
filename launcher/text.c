/* Strings, and memory that is reserved once. */
#include "launcher.h"

enum { MEMORY = 1 << 19 };
static _Alignas(8) char memory[MEMORY];
static uint64_t used;

void *memcpy(void *to, const void *from, size_t size)
{
    char *out = to;
    const char *in = from;
    while (size--)
        *out++ = *in++;
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    char *out = to;
    while (size--)
        *out++ = (char)byte;
    return to;
}

void *reserve(uint64_t size)
{
    size = (size + 7) & ~(uint64_t)7;
    if (size > MEMORY - used)
        return 0;
    used += size;
    return memory + used - size;
}

const char *base_name(const char *path)
{
    const char *name = path;
    for (; *path; path++)
        if (*path == '/')
            name = path + 1;
    return name;
}

char *joined(const char *a, const char *b, const char *c)
{
    uint64_t first = text_length(a), second = text_length(b), third = text_length(c);
    char *text = reserve(first + second + third + 1);
    if (!text)
        return 0;
    memcpy(text, a, first);
    memcpy(text + first, b, second);
    memcpy(text + first + second, c, third + 1);
    return text;
}

int add_word(struct words *words, const char *word)
{
    if (words->count == WORDS || !word)
        return 0;
    words->word[words->count++] = word;
    return 1;
}
