/* Which of Spidl's parts is meant: `spidl run`, a linked name, an image that came back. */
#include "entry.h"
#include "launcher.h"

enum { LARGEST_LINK = 1 << 16, READ_ONLY = 02004000 | 0400000, HOPS = 16 };

char **launcher_argv, **launcher_envp;
const char *launcher_execfn;
int launcher_secure;

_Noreturn void spidl_launcher(uint64_t *stack);

static void read_stack(uint64_t *stack)
{
    launcher_argv = (char **)(stack + 1);
    launcher_envp = launcher_argv + stack[0] + 1;
    launcher_execfn = "spidl";
    char **end = launcher_envp;
    while (*end)
        end++;
    for (const struct auxv *entry = (const void *)(end + 1); entry->type != AUX_NULL; entry++) {
        if (entry->type == AUX_EXECFN)
            launcher_execfn = (const char *)(uintptr_t)entry->value;
        if (entry->type == AUX_SECURE)
            launcher_secure = entry->value != 0;
    }
}

/* Beside this file, where pip puts both. */
static void find_python(struct words *python)
{
    char *path = joined(own_path(), "", "");
    if (!path)
        return;
    path[base_name(path) - path] = 0;
    add_word(python, joined(path, "spidl-python", ""));
}

/* What `spidl enable` wrote about the name beside it: FOLDER/.spidl/NAME. */
static int read_link(struct request *request, const char *path)
{
    struct kernel_stat now;
    const char *name = base_name(path);
    char *folder = joined(path, "", "");
    if (!folder)
        return 0;
    folder[name - path] = 0;
    const char *kept = joined(folder, ".spidl", "");
    if (!kept || status_of(kept, &now) || !is_private_file(&now, FOLDER))
        return 0;
    kept = joined(kept, "/", name);
    int64_t file = kept ? system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, number_of(kept), READ_ONLY,
                                      0, 0, 0)
                        : -1;
    if (file < 0)
        return 0;
    int found = 0;
    if (!system_call(SYS_FSTAT, (uint64_t)file, number_of(&now), 0, 0, 0, 0) &&
        is_private_file(&now, REGULAR) && now.size > 0 && now.size <= LARGEST_LINK) {
        char *text = reserve((uint64_t)now.size);
        found = text &&
                system_call(SYS_READ, (uint64_t)file, number_of(text), (uint64_t)now.size, 0, 0,
                            0) == now.size &&
                read_words(request, text, (uint64_t)now.size);
    }
    system_call(SYS_CLOSE, (uint64_t)file, 0, 0, 0, 0, 0);
    return found;
}

static int has_slash(const char *text)
{
    return text && (base_name(text) != text || *text == '/');
}

/* The name itself, or one that it is a link to. */
static int read_links(struct request *request, const char *path)
{
    for (int hops = 0; path && hops < HOPS; hops++) {
        if (read_link(request, path))
            return 1;
        path = link_target(path);
    }
    return 0;
}

static _Noreturn void start_enabled(void)
{
    struct request request = {0};
    const char *name = launcher_execfn, *first = *launcher_argv;
    request.argv = launcher_argv;
    request.quiet = 1;
    int found = read_links(&request, name);
    /* The interpreter of a script is told the script's name there; fexecve tells a number. */
    if (!found && (has_slash(first) || (first && after_prefix(name, "/dev/fd/")))) {
        name = first;
        found = has_slash(first) && read_links(&request, name);
    }
    struct kernel_stat now;
    if (!found || status_of(request.program, &now)) {
        const char *next = find_next(name);
        if (!next)
            die("not-enabled", "no program of this name is enabled, or found in PATH",
                base_name(name), 0, "spidl status shows what is enabled", STATUS_BROKEN);
        request.program = next;
        say_plain("not enabled by this user", name);
        start_plainly(&request);
    }
    if (request.full_name && *launcher_argv && !has_slash(*launcher_argv))
        *launcher_argv = (char *)(uintptr_t)request.program;
    if (variable("SPIDL_CACHE"))
        request.cache = 0;
    defaults(&request);
    start(&request);
}

/* For Spidl's Python: the entry's name, cache folder, spidl.toml, the program; then the key. */
static _Noreturn void show_key(const struct request *request)
{
    struct key key;
    struct kernel_iovec part[5];
    if (!request->cache)
        die("no-cache", "there is no home folder to keep images in", 0, 0,
            "set SPIDL_CACHE to a folder that you may write to", STATUS_USAGE);
    if (!make_key(request, &key))
        die("too-long", "the request is too long to be kept", request->program, 0,
            "fewer options, or fewer LD_ variables", STATUS_USAGE);
    const char *texts[] = {key.name, request->cache, request->config ? request->config : "",
                           request->program};
    for (int i = 0; i < 4; i++)
        part[i] = (struct kernel_iovec){texts[i], text_length(texts[i]) + 1};
    part[4] = (struct kernel_iovec){key.text, key.size};
    system_call(SYS_WRITEV, 1, number_of(part), 5, 0, 0, 0);
    leave(0);
}

static _Noreturn void command(void)
{
    struct request request = {0};
    char **word = launcher_argv + (*launcher_argv != 0);
    const char *value;
    for (; *word && (value = after_prefix(*word, "--python=")); word++)
        add_word(&request.python, value);
    int from_python = request.python.count != 0;
    if (!from_python)
        find_python(&request.python);
    int key = *word && same_text(*word, "key");
    if (!*word || !(key || same_text(*word, "run")))
        hand_over(&request.python, word);
    request.argv = parse_run(&request, word + 1);
    if (request.argv)
        request.program = find_program(*request.argv);
    if (!request.program) {
        if (from_python)
            die("no-program", "there is no such program", request.argv ? *request.argv : 0, 0,
                "check the spelling, or give its path", STATUS_USAGE);
        hand_over(&request.python, word); /* its messages are better */
    }
    defaults(&request);
    if (key)
        show_key(&request);
    start(&request);
}

void spidl_launcher(uint64_t *stack)
{
    read_stack(stack);
    const char *name = base_name(launcher_execfn);
    if (same_text(name, "spidl-again")) /* nobody starts a program under this name */
        restart(take_variable("SPIDL_STALE"));
    if (!same_text(name, "spidl"))
        start_enabled();
    command();
}
