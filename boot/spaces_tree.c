/* Finding libraries inside of another system's file tree. */
#include "spaces.h"

enum { SYS_READLINK = 89, SYS_MUNMAP = 11, SYS_OPENAT2 = 437 };
enum { O_PATH_ = 010000000, O_DIRECTORY_ = 0200000, O_CLOEXEC_ = 02000000 };
enum { RESOLVE_IN_ROOT_ = 0x10, PROT_READ_ = 1, LARGEST = 1 << 30 };
enum { LOAD = 1, DYNAMIC = 2, TAG_NULL = 0, TAG_STRINGS = 5, X86_64 = 62 };

static const char cache_name[] = "/etc/ld.so.cache";

int is_same(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

int has_slash(const char *text)
{
    while (*text && *text != '/')
        text++;
    return *text != 0;
}

uint64_t text_size(const char *text)
{
    uint64_t size = 0;
    while (text[size])
        size++;
    return size;
}

/* -- files ------------------------------------------------------------------------------------ */

int map_file(const char *path, struct file *file)
{
    struct kernel_stat status;
    int64_t fd = system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, (uint64_t)path, OPEN_FLAGS, 0, 0, 0);
    if (fd < 0)
        return 0;
    int64_t at = system_call(SYS_FSTAT, (uint64_t)fd, (uint64_t)&status, 0, 0, 0, 0);
    if (!at && (status.size <= 0 || status.size > LARGEST))
        at = -1;
    if (!at)
        at = system_call(SYS_MMAP, 0, (uint64_t)status.size, PROT_READ_, MAP_PRIVATE_, (uint64_t)fd,
                         0);
    system_call(SYS_CLOSE, (uint64_t)fd, 0, 0, 0, 0, 0);
    if (at < 0)
        return 0;
    file->bytes = (const uint8_t *)at;
    file->size = (uint64_t)status.size;
    return 1;
}

void unmap_file(struct file *file)
{
    system_call(SYS_MUNMAP, (uint64_t)file->bytes, file->size, 0, 0, 0, 0);
}

static uint64_t number_in(const struct file *file, uint64_t offset, unsigned width)
{
    uint64_t value = 0;
    if (offset <= file->size && width <= file->size - offset)
        __builtin_memcpy(&value, file->bytes + offset, width);
    return value;
}

const char *text_in(const struct file *file, uint64_t offset)
{
    uint64_t end = offset;
    while (end < file->size && file->bytes[end])
        end++;
    return end < file->size ? (const char *)file->bytes + offset : "";
}

/* The file offset of a virtual address, by the program headers; the file's size for none. */
static uint64_t offset_of(const struct file *file, uint64_t address)
{
    uint64_t headers = number_in(file, 32, 8), count = number_in(file, 56, 2);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t header = headers + 56 * i, start = number_in(file, header + 16, 8);
        if (number_in(file, header, 4) == LOAD && address >= start &&
            address - start < number_in(file, header + 32, 8))
            return number_in(file, header + 8, 8) + address - start;
    }
    return file->size;
}

const struct dynamic *dynamic_of(const struct file *file, uint64_t *count, uint64_t *strings)
{
    uint64_t headers = number_in(file, 32, 8), header_count = number_in(file, 56, 2);
    if (number_in(file, 0, 4) != 0x464c457f || number_in(file, 18, 2) != X86_64)
        return 0;
    for (uint64_t i = 0; i < header_count; i++) {
        uint64_t header = headers + 56 * i, at = number_in(file, header + 8, 8);
        uint64_t size = number_in(file, header + 32, 8);
        if (number_in(file, header, 4) != DYNAMIC || at % 8 || at > file->size ||
            size > file->size - at)
            continue;
        const struct dynamic *entry = (const void *)(file->bytes + at);
        *strings = file->size;
        for (*count = 0; *count < size / sizeof *entry && entry[*count].tag != TAG_NULL; ++*count)
            if (entry[*count].tag == TAG_STRINGS)
                *strings = offset_of(file, entry[*count].value);
        return entry;
    }
    return 0;
}

/* -- paths ------------------------------------------------------------------------------------ */

/* Append a text of so many bytes; 0 where there is no room. */
static int append(char path[PATH_SIZE], uint64_t *length, const char *text, uint64_t size)
{
    if (size >= PATH_SIZE - *length)
        return 0;
    __builtin_memcpy(path + *length, text, size);
    *length += size;
    path[*length] = 0;
    return 1;
}

static int starts_with(const char *text, const char *start)
{
    while (*start && *text == *start)
        text++, start++;
    return !*start;
}

/* The file that `path` leads to where `root` is /: the kernel follows links inside of it. */
static int in_root(const char *root, char path[PATH_SIZE])
{
    struct {
        uint64_t flags, mode, resolve;
    } how = {O_PATH_ | O_CLOEXEC_, 0, RESOLVE_IN_ROOT_};
    char link[32] = "/proc/self/fd/";
    uint64_t end = 14;
    int64_t folder = system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, (uint64_t)root,
                                 O_PATH_ | O_DIRECTORY_ | O_CLOEXEC_, 0, 0, 0);
    if (folder < 0)
        return 0;
    int64_t fd = system_call(SYS_OPENAT2, (uint64_t)folder, (uint64_t)path, (uint64_t)&how,
                             sizeof how, 0, 0);
    system_call(SYS_CLOSE, (uint64_t)folder, 0, 0, 0, 0, 0);
    if (fd < 0)
        return 0;
    for (int64_t digit = 1000000000; digit; digit /= 10)
        if (fd >= digit || digit == 1)
            link[end++] = (char)('0' + fd / digit % 10);
    link[end] = 0;
    int64_t size =
        system_call(SYS_READLINK, (uint64_t)link, (uint64_t)path, PATH_SIZE - 1, 0, 0, 0);
    system_call(SYS_CLOSE, (uint64_t)fd, 0, 0, 0, 0, 0);
    if (size <= 0 || size >= PATH_SIZE - 1)
        return 0;
    path[size] = 0;
    return 1;
}

/* A path as a library of the tree means it: $ORIGIN is where its own file is. */
static int resolve(const struct space *space, const char *text, uint64_t size, const char *name,
                   const struct asker *asker, char path[PATH_SIZE])
{
    uint64_t length = 0, token = 0, folder = 0;
    if (size >= 7 && starts_with(text, "$ORIGIN"))
        token = 7;
    else if (size >= 9 && starts_with(text, "${ORIGIN}"))
        token = 9;
    if (token) {
        const char *origin = asker->origin ? asker->origin : "";
        if (starts_with(origin, space->root))
            origin += text_size(space->root);
        for (uint64_t i = 0; origin[i]; i++)
            if (origin[i] == '/')
                folder = i;
        if (!append(path, &length, origin, folder))
            return 0;
    }
    if (!append(path, &length, text + token, size - token))
        return 0;
    if (name && (!append(path, &length, "/", 1) || !append(path, &length, name, text_size(name))))
        return 0;
    return in_root(space->root, path);
}

/* ld.so.cache, format 1.1 (sysdeps/generic/dl-cache.h): entries of 24 bytes behind a header of 48. */
static int in_cache(const struct space *space, const char *name, char path[PATH_SIZE])
{
    static const char magic[] = "glibc-ld.so.cache1.1";
    struct file cache;
    int found = 0;
    __builtin_memcpy(path, cache_name, sizeof cache_name);
    if (!in_root(space->root, path) || !map_file(path, &cache))
        return 0;
    if (cache.size > 48 && starts_with((const char *)cache.bytes, magic))
        for (uint64_t i = 0, count = number_in(&cache, 20, 4); i < count && !found; i++) {
            uint64_t entry = 48 + 24 * i;
            if (number_in(&cache, entry, 4) != 0x0303 || number_in(&cache, entry + 16, 8) ||
                !is_same(text_in(&cache, number_in(&cache, entry + 4, 4)), name))
                continue;
            const char *there = text_in(&cache, number_in(&cache, entry + 8, 4));
            found = resolve(space, there, text_size(there), 0, 0, path);
        }
    unmap_file(&cache);
    return found;
}

int find_file(const struct space *space, const char *name, const struct asker *asker,
              char path[PATH_SIZE])
{
    static const char folders[] = "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:"
                                  "/lib64:/usr/lib64:/lib:/usr/lib";
    const char *lists[] = {asker->runpath ? asker->runpath : "", 0, folders};
    if (has_slash(name)) {
        const char *inside = starts_with(name, space->root) ? name + text_size(space->root) : name;
        if (resolve(space, inside, text_size(inside), 0, asker, path))
            return 1;
    } else {
        for (uint64_t i = 0; i < space->lent_count; i++)
            if (is_same(space->lent[i].name, name)) {
                uint64_t size = 0;
                return append(path, &size, space->lent[i].path, text_size(space->lent[i].path));
            }
        for (int i = 0; i < 3; i++) {
            if (!lists[i] && in_cache(space, name, path))
                return 1;
            for (const char *at = lists[i]; at && *at;) {
                uint64_t size = 0;
                while (at[size] && at[size] != ':')
                    size++;
                if (size && resolve(space, at, size, name, asker, path))
                    return 1;
                at += size + (at[size] == ':');
            }
        }
    }
    /* Where it would be, for ld.so's message. */
    uint64_t length = 0;
    path[0] = 0;
    append(path, &length, space->root, text_size(space->root));
    append(path, &length, "/", name[0] != '/');
    append(path, &length, name, text_size(name));
    return 0;
}
