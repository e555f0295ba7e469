/* The environment, files and PATH. */
#include "launcher.h"

enum { PATHS = 4096, EXECUTE = 1, OTHERS_WRITE = 022 };

static char **find_variable(const char *name)
{
    for (char **entry = launcher_envp; *entry; entry++) {
        const char *rest = after_prefix(*entry, name);
        if (rest && *rest == '=')
            return entry;
    }
    return 0;
}

const char *variable(const char *name)
{
    char **entry = find_variable(name);
    return entry ? *entry + text_length(name) + 1 : 0;
}

/* The last one of the name: an image puts it behind all that it was given. */
char *take_variable(const char *name)
{
    char **entry = launcher_envp;
    while (*entry)
        entry++;
    do
        if (entry-- == launcher_envp)
            return 0;
    while (!after_prefix(*entry, name) || *after_prefix(*entry, name) != '=');
    char *value = *entry + text_length(name) + 1;
    for (; *entry; entry++)
        *entry = entry[1];
    return value;
}

/* What a symbolic link leads to, one step; 0 where it is none. */
const char *link_target(const char *path)
{
    char *target = reserve(PATHS), *folder = joined(path, "", "");
    if (!target || !folder)
        return 0;
    int64_t length = system_call(SYS_READLINK, number_of(path), number_of(target), PATHS - 1, 0, 0,
                                 0);
    if (length <= 0)
        return 0;
    target[length] = 0;
    folder[base_name(path) - path] = 0;
    return *target == '/' ? target : joined(folder, target, "");
}

int status_of(const char *path, struct kernel_stat *now)
{
    return (int)system_call(SYS_NEWFSTATAT, (uint64_t)AT_FDCWD_, number_of(path), number_of(now),
                            0, 0, 0);
}

uint32_t user(void)
{
    static int64_t known = -1;
    if (known < 0)
        known = system_call(SYS_GETEUID, 0, 0, 0, 0, 0, 0);
    return (uint32_t)known;
}

/* Ours, of the right kind, and nobody else may write to it. */
int is_private_file(const struct kernel_stat *now, uint32_t kind)
{
    return now->user == user() && (now->mode & KIND) == kind && !(now->mode & OTHERS_WRITE);
}

/* An enabled name has a file of its own in .spidl beside it. */
int is_launcher(const char *path)
{
    static const char below[] = "/.spidl/";
    const char *name = base_name(path);
    uint64_t folder = (uint64_t)(name - path), size = text_length(name) + 1;
    char kept[PATHS + sizeof below];
    struct kernel_stat now, self;
    if (folder && folder + size < PATHS) {
        memcpy(kept, path, folder - 1);
        memcpy(kept + folder - 1, below, sizeof below - 1);
        memcpy(kept + folder - 1 + sizeof below - 1, name, size);
        if (status_of(kept, &now) == 0)
            return 1;
    }
    return status_of("/proc/self/exe", &self) == 0 && status_of(path, &now) == 0 &&
           now.device == self.device && now.inode == self.inode;
}

const char *own_path(void)
{
    char *path = reserve(PATHS);
    if (!path)
        return 0;
    int64_t length = system_call(SYS_READLINK, number_of("/proc/self/exe"), number_of(path),
                                 PATHS - 1, 0, 0, 0);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return path;
}

/* 0 where it has no path: removed, not reachable from here, or too long. */
const char *working_folder(void)
{
    static const char *known;
    if (!known) {
        char *path = reserve(PATHS);
        int64_t length =
            path ? system_call(SYS_GETCWD, number_of(path), PATHS, 0, 0, 0, 0) : 0;
        known = length > 0 && *path == '/' ? path : 0;
    }
    return known;
}

/* Absolute, without "." and empty parts; ".." stays, for links make it mean what the kernel says. */
static const char *absolute(const char *path)
{
    const char *folder = *path == '/' ? "" : working_folder();
    char *whole = folder ? joined(folder, "/", path) : 0;
    if (!whole)
        return joined(path, "", ""); /* it can be started, but nothing can be kept of it */
    char *out = whole;
    for (const char *in = whole; *in;) {
        while (*in == '/')
            in++;
        if (in[0] == '.' && (in[1] == '/' || in[1] == 0)) {
            in++;
            continue;
        }
        if (!*in)
            break;
        *out++ = '/';
        while (*in && *in != '/')
            *out++ = *in++;
    }
    if (out == whole)
        *out++ = '/';
    *out = 0;
    return whole;
}

static int is_program(const char *path)
{
    struct kernel_stat now;
    return status_of(path, &now) == 0 && (now.mode & KIND) == REGULAR &&
           system_call(SYS_FACCESSAT, (uint64_t)AT_FDCWD_, number_of(path), EXECUTE, 0, 0, 0) == 0;
}

/* One folder of PATH, ended by "/"; gives what comes behind it, or 0 at the end. */
static const char *read_folder(const char *path, char *folder, uint64_t room)
{
    uint64_t size = 0;
    for (; *path && *path != ':'; path++, size++)
        if (size + 2 < room)
            folder[size] = *path;
    if (size + 2 > room) { /* too long for the kernel, too: no such folder */
        memcpy(folder, "/dev/null", 9);
        size = 9;
    }
    if (!size)
        folder[size++] = '.';
    folder[size++] = '/';
    folder[size] = 0;
    return *path ? path + 1 : 0;
}

static int same_place(const struct kernel_stat *one, const struct kernel_stat *other)
{
    return one->device == other->device && one->inode == other->inode;
}

/* Whether this is a folder of PATH, seen from the first on up to `end`. */
static int is_before(const struct kernel_stat *wanted, const char *path, const char *end)
{
    char folder[PATHS];
    struct kernel_stat now;
    while (path && path != end) {
        path = read_folder(path, folder, sizeof folder);
        if (status_of(folder, &now) == 0 && same_place(&now, wanted))
            return 1;
    }
    return 0;
}

/* In PATH; behind the folder of a name that is not to be found again, where there is one. Each
   search of a chain of such names goes on where the last one ended, so the chain has an end. */
static const char *search(const char *name, const char *behind)
{
    const char *path = variable("PATH"), *here, *next;
    char candidate[PATHS];
    struct kernel_stat own, now;
    uint64_t length = text_length(name);
    if (!path)
        path = "/bin:/usr/bin";
    int passed = !behind || status_of(behind, &own) || !is_before(&own, path, 0);
    for (here = path; here; here = next) {
        next = read_folder(here, candidate, sizeof candidate - 1);
        uint64_t size = text_length(candidate);
        if (behind) {
            int known = status_of(candidate, &now) == 0;
            if (!passed) {
                passed = known && same_place(&now, &own);
                continue;
            }
            if (known && is_before(&now, path, here))
                continue; /* once more */
        }
        if (size + length + 1 > sizeof candidate)
            continue;
        memcpy(candidate + size, name, length + 1);
        if (is_program(candidate) && !is_launcher(candidate))
            return absolute(candidate);
    }
    return 0;
}

const char *find_program(const char *name)
{
    for (const char *c = name; *c; c++)
        if (*c == '/')
            return is_program(name) ? absolute(name) : 0;
    return *name ? search(name, 0) : 0;
}

/* What a shell would find had it not found `path`. */
const char *find_next(const char *path)
{
    const char *name = base_name(path);
    char *folder = joined(path, "", "");
    if (!folder || !*name)
        return 0;
    folder[name - path] = 0;
    return search(name, *folder ? folder : ".");
}
