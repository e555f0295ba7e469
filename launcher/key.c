/* What selects a kept link: the program, how it is linked, and the world that decides it. */
#include "launcher.h"

enum { UTS_FIELD = 65, HEX = 8, STEERING = 64 };

struct buffer {
    char *text;
    uint64_t size, room;
};

static int put(struct buffer *buffer, const char *text)
{
    uint64_t length = text_length(text) + 1;
    if (length > buffer->room - buffer->size)
        return 0;
    memcpy(buffer->text + buffer->size, text, length);
    buffer->size += length;
    return 1;
}

void hexadecimal(char *out, uint64_t number, int digits)
{
    for (out[digits] = 0; digits--; number >>= 4)
        out[digits] = "0123456789abcdef"[number & 15];
}

/* A bijection in each step: no single changed word goes unnoticed. */
uint64_t hash_words(const uint64_t *words, uint64_t count)
{
    uint64_t hash = count;
    for (uint64_t i = 0; i < count; i++) {
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return hash;
}

static int put_machine(struct buffer *buffer)
{
    char names[6][UTS_FIELD];
    uint32_t cpu[4];
    char digits[HEX + 1];
    if (system_call(SYS_UNAME, number_of(names), 0, 0, 0, 0, 0))
        return 0;
    machine_cpuid(1, 0, cpu);
    cpu[1] &= 0xff00; /* the rest of EBX names the core that we happen to run on */
    int done = put(buffer, names[2]) && put(buffer, names[3]) && put(buffer, names[4]);
    for (int i = 0; i < 4 && done; i++) {
        hexadecimal(digits, cpu[i], HEX);
        done = put(buffer, digits);
    }
    return done;
}

/* Whether one of a path list's entries counts from the working folder. */
int has_relative(const char *list)
{
    for (int start = 1; list && (*list || start); list++) {
        if (start && *list != '/')
            return 1;
        start = *list == ':' || *list == ';' || *list == ' ';
        if (!*list)
            break;
    }
    return 0;
}

/* A file of the working folder: --config PATH, --with FILE.py but not --with NAME. */
static int is_relative(const char *option)
{
    const char *config = after_prefix(option, "--config=");
    const char *module = after_prefix(option, "--with=");
    if (config)
        return *config != '/';
    if (!module || *module == '/')
        return 0;
    for (; *module; module++)
        if (*module == '/' || after_prefix(module, ".py"))
            return 1;
    return 0;
}

static int before(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (unsigned char)*a < (unsigned char)*b;
}

static int put_steering(struct buffer *buffer)
{
    const char *found[STEERING];
    uint32_t count = 0;
    for (char **entry = launcher_envp; *entry; entry++) {
        if (!steers_linker(*entry))
            continue;
        if (count == STEERING)
            return 0;
        uint32_t i = count++;
        for (; i && before(*entry, found[i - 1]); i--)
            found[i] = found[i - 1];
        found[i] = *entry;
    }
    for (uint32_t i = 0; i < count; i++)
        if (!put(buffer, found[i]))
            return 0;
    return 1;
}

static int put_options(struct buffer *buffer, const struct words *options)
{
    /* Where one is the last that counts, and what is the default, must not make another key. */
    static const char *const once[] = {"--layout=", "--config="};
    static const char *const many[] = {"--with=", "--set="};
    for (int kind = 0; kind < 2; kind++) {
        const char *last = 0;
        for (uint32_t i = 0; i < options->count; i++)
            if (after_prefix(options->word[i], once[kind]))
                last = options->word[i];
        if (last && !same_text(last, "--layout=shared") && !put(buffer, last))
            return 0;
    }
    for (int kind = 0; kind < 2; kind++)
        for (uint32_t i = 0; i < options->count; i++)
            if (after_prefix(options->word[i], many[kind]) && !put(buffer, options->word[i]))
                return 0;
    return 1;
}

int make_key(const struct request *request, struct key *key)
{
    enum { ROOM = 1 << 17 };
    struct buffer buffer = {reserve(ROOM), 0, ROOM - 8};
    const char *path = variable("LD_LIBRARY_PATH"), *preload = variable("LD_PRELOAD");
    int relative = (path && *path && has_relative(path)) ||
                   (preload && *preload && has_relative(preload));
    for (uint32_t i = 0; i < request->options.count; i++)
        relative |= is_relative(request->options.word[i]);
    if (*request->program != '/' || (relative && !working_folder()))
        return 0;
    if (!buffer.text || !put(&buffer, "spidl key 1") || !put_machine(&buffer) ||
        !put(&buffer, request->program) || !put(&buffer, request->config ? request->config : "") ||
        !put_options(&buffer, &request->options) || !put(&buffer, "") ||
        !put(&buffer, relative ? working_folder() : "") || !put_steering(&buffer))
        return 0;
    while (buffer.size % 8)
        buffer.text[buffer.size++] = 0;
    key->text = buffer.text;
    key->size = buffer.size;
    hexadecimal(key->name, hash_words((const uint64_t *)(const void *)buffer.text, buffer.size / 8),
                16);
    return 1;
}
