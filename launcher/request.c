/* From command lines and kept words to a request. */
#include "launcher.h"

static const char *const with_value[] = {"--layout", "--config", "--with", "--set"};

/* One of the four, in the form NAME=VALUE: all others are left to Python. */
int is_option(const char *word)
{
    for (uint32_t i = 0; i < sizeof with_value / sizeof *with_value; i++) {
        const char *rest = after_prefix(word, with_value[i]);
        if (rest && *rest == '=')
            return 1;
    }
    return 0;
}

/* --capsule LIBRARY=ROOT is short for a setting, as in cli/options.py. */
static const char capsule[] = "--capsule", taken[] = "--set=capsule.take+=";

static const char *option(char ***word)
{
    const char *value = after_prefix(**word, capsule);
    if (value && *value == '=')
        return joined(taken, value + 1, "");
    if (value && !*value)
        return (*word)[1] ? joined(taken, *++*word, "") : 0;
    for (uint32_t i = 0; i < sizeof with_value / sizeof *with_value; i++)
        if (same_text(**word, with_value[i])) {
            if (!(*word)[1])
                return 0;
            ++*word;
            return joined(with_value[i], "=", **word);
        }
    return is_option(**word) ? **word : 0;
}

char **parse_run(struct request *request, char **word)
{
    for (; *word && **word == '-'; word++) {
        const char *value;
        if (same_text(*word, "--")) {
            word++;
            break;
        }
        if ((value = after_prefix(*word, "--cache=")))
            request->cache = value; /* these two are said by Spidl's own Python */
        else if ((value = after_prefix(*word, "--user-config=")))
            request->config = value;
        else {
            const char *found = option(&word);
            if (!found || !add_word(&request->options, found))
                return 0;
        }
    }
    return *word ? word : 0;
}

static const char *below(const char *variable_name, const char *in_home, const char *name)
{
    const char *base = variable(variable_name);
    if (base && *base)
        return *base == '/' ? joined(base, name, "") : 0;
    base = variable("HOME");
    return base && *base == '/' ? joined(base, in_home, name) : 0;
}

/* As cache_folder in cache/store.py, and read_configuration in registry.py. */
void defaults(struct request *request)
{
    const char *chosen = variable("SPIDL_CACHE");
    if (!request->cache && chosen && *chosen)
        request->cache = *chosen == '/'    ? chosen
                         : working_folder() ? joined(working_folder(), "/", chosen)
                                            : 0;
    if (!request->cache)
        request->cache = below("XDG_CACHE_HOME", "/.cache", "/spidl");
    for (uint32_t i = 0; i < request->options.count; i++)
        if (after_prefix(request->options.word[i], "--config="))
            return;
    if (!request->config)
        request->config = below("XDG_CONFIG_HOME", "/.config", "/spidl/spidl.toml");
}

/* Strings that say by their first letter what they are; in entries and in enabled programs. */
int read_words(struct request *request, const char *text, uint64_t size)
{
    if (!size || text[size - 1])
        return 0;
    for (const char *end = text + size; text < end; text += text_length(text) + 1)
        switch (*text) {
        case 'P':
            request->program = text + 1;
            break;
        case 'C':
            request->cache = text + 1;
            break;
        case 'F':
            request->config = text + 1;
            break;
        case 'A':
            request->full_name = 1;
            break;
        case 'I':
            if (!add_word(&request->python, text + 1))
                return 0;
            break;
        case 'O':
            if (!is_option(text + 1) || !add_word(&request->options, text + 1))
                return 0;
            break;
        }
    return request->program && *request->program == '/';
}
