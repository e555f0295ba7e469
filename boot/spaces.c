/* Opening libraries from inside a namespace, and the end of the process.

   Who calls dlopen from a capsule means names and paths inside of the capsule's root, and gets them
   with all they need into its own namespace. ld.so would look in the system's folders: so what is
   needed is found here and opened first, and ld.so finds it by its name.

   At exit everything that the image had in namespaces goes back to the program's list, where ld.so
   runs destructors in the order of dependencies. */
#include "spaces.h"

enum { TAG_NULL = 0, TAG_NEEDED = 1, TAG_RPATH = 15, TAG_RUNPATH = 29 };
enum { LAZY = 1, NOLOAD = 4, DLOPEN = (int)0x80000000 };

/* _dl_open's arguments but the file, the mode and the namespace. */
struct call {
    const void *caller;
    int64_t number;
    int argc;
    char **argv, **envp;
};

static void *really(const struct call *call, const char *file, int mode)
{
    return machine_open(spaces_table->open, file, mode, call->caller, call->number, call->argc,
                        call->argv, call->envp);
}

static uint64_t field(const struct map *map, uint64_t offset)
{
    return *(const uint64_t *)((const char *)map + offset);
}

/* A string that a dynamic entry names (l_info); 0 without the entry. */
static const char *own_string(const struct map *map, uint64_t offset)
{
    const struct dynamic *entry = offset ? (const void *)field(map, offset) : 0;
    const struct dynamic *strings = (const void *)field(map, spaces_table->strings);
    return entry && strings ? (const char *)(strings->value + entry->value) : 0;
}

/* -- the lists, which other threads change ------------------------------------------------------ */

enum { SYS_FUTEX = 202, FUTEX_WAIT = 128, FUTEX_WAKE = 129 }; /* private ones */

/* ld.so's own lock, by glibc's rules (nptl/pthread_mutex_lock.c, lowlevellock.h). No error of
   ld.so's may leave this code while it is held. */
static void lock(void)
{
    struct mutex *mutex = spaces_table->lock;
    int32_t me = (int32_t)system_call(SYS_GETTID, 0, 0, 0, 0, 0, 0), unlocked = 0;
    if (__atomic_load_n(&mutex->owner, __ATOMIC_RELAXED) == me) {
        mutex->count++;
        return;
    }
    if (!__atomic_compare_exchange_n(&mutex->word, &unlocked, 1, 0, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        while (__atomic_exchange_n(&mutex->word, 2, __ATOMIC_ACQUIRE))
            system_call(SYS_FUTEX, (uint64_t)&mutex->word, FUTEX_WAIT, 2, 0, 0, 0);
    __atomic_store_n(&mutex->owner, me, __ATOMIC_RELAXED);
    mutex->count = 1;
    mutex->users++;
}

static void unlock(void)
{
    struct mutex *mutex = spaces_table->lock;
    if (--mutex->count)
        return;
    __atomic_store_n(&mutex->owner, 0, __ATOMIC_RELAXED);
    mutex->users--;
    if (__atomic_exchange_n(&mutex->word, 0, __ATOMIC_RELEASE) > 1)
        system_call(SYS_FUTEX, (uint64_t)&mutex->word, FUTEX_WAKE, 1, 0, 0, 0);
}

static int has_name(const struct map *map, const char *name)
{
    for (const struct alias *alias = map->aliases; alias; alias = alias->next)
        if (is_same(alias->name, name))
            return 1;
    const char *soname = own_string(map->real, spaces_table->soname);
    return is_same(map->name, name) || (soname && is_same(soname, name));
}

/* Whether a map of the space has this name. By its path, which stays right where another thread
   closes it, ld.so finds it again. */
static int is_there(const struct space *space, const char *name, char path[PATH_SIZE])
{
    int found = 0;
    lock();
    for (const struct map *map = space->lists->first; map && !found; map = map->next)
        if (has_name(map, name) && text_size(map->name) < PATH_SIZE) {
            __builtin_memcpy(path, map->name, text_size(map->name) + 1);
            found = 1;
        }
    unlock();
    return found;
}

/* The space that code belongs to, and the map in it, which stays for as long as its code runs. */
static const struct space *space_of(uint64_t address, const struct map **found)
{
    const struct space *space = 0;
    lock();
    for (uint64_t i = 0; i < spaces_table->count && !space; i++)
        for (const struct map *map = spaces_table->space[i].lists->first; map; map = map->next)
            if (map->real == map && address >= field(map, spaces_table->start) &&
                address < field(map, spaces_table->end)) {
                *found = map;
                space = &spaces_table->space[i];
            }
    unlock();
    return space;
}

/* Open what a file needs, the deepest first; what is there already is kept by that. Gives 0 where
   something is nowhere; `missing` is then where it would be. */
static int open_needs(const struct space *space, const struct call *call, const char *path,
                      int depth, char missing[PATH_SIZE])
{
    struct file file;
    uint64_t count, strings;
    char needed[PATH_SIZE];
    struct asker asker = {0, path};
    int complete = 1;
    if (depth == DEPTH || !map_file(path, &file))
        return 1;
    const struct dynamic *entry = dynamic_of(&file, &count, &strings);
    for (uint64_t i = 0; entry && i < count; i++)
        if (entry[i].tag == TAG_RUNPATH || (entry[i].tag == TAG_RPATH && !asker.runpath))
            asker.runpath = text_in(&file, strings + entry[i].value);
    for (uint64_t i = 0; entry && complete && i < count; i++) {
        const char *name = text_in(&file, strings + entry[i].value);
        if (entry[i].tag != TAG_NEEDED)
            continue;
        if (!is_there(space, name, needed)) {
            complete = find_file(space, name, &asker, needed);
            if (!complete)
                __builtin_memcpy(missing, needed, PATH_SIZE);
            else
                complete = open_needs(space, call, needed, depth + 1, missing);
        }
        if (complete)
            really(call, needed, LAZY | DLOPEN);
    }
    unmap_file(&file);
    return complete;
}

void *spaces_open(const char *file, int mode, const void *caller, int64_t number, int argc,
                  char **argv, char **envp)
{
    struct call call = {caller, number, argc, argv, envp};
    const struct map *map = 0;
    const struct space *space = 0;
    char path[PATH_SIZE], missing[PATH_SIZE];
    if (number == LMID_CALLER)
        space = space_of((uint64_t)caller, &map);
    for (uint64_t i = 0; !space && i < spaces_table->count; i++)
        if (spaces_table->space[i].number == number)
            space = &spaces_table->space[i];
    if (!space || !file || !*file)
        return really(&call, file, mode);
    if (is_there(space, file, path))
        return really(&call, path, mode);
    struct asker asker = {0, 0};
    if (map) {
        asker.runpath = own_string(map, spaces_table->runpath);
        if (!asker.runpath)
            asker.runpath = own_string(map, spaces_table->rpath);
        asker.origin = map->name;
    }
    call.number = space->number;
    if (find_file(space, file, &asker, path) && !(mode & NOLOAD) &&
        !open_needs(space, &call, path, 0, missing))
        return really(&call, missing, mode);
    /* Where there is none, ld.so says so of the path, and does not look elsewhere. */
    return really(&call, path, mode);
}

/* Put a namespace's maps behind the program's. Proxies are left out, and whoever needed one needs
   what it stood for (l_initfini). */
static void merge(struct lists *lists)
{
    struct map *last = spaces_table->base->first, *next;
    while (last->next)
        last = last->next;
    for (struct map *map = lists->first; map; map = next) {
        next = map->next;
        if (map->real != map)
            continue;
        for (struct map **need = (void *)field(map, spaces_table->needs); need && *need; need++)
            if ((*need)->real != *need)
                *need = (*need)->real;
        last->next = map;
        map->previous = last;
        map->next = 0;
        map->space = 0;
        spaces_table->base->count++;
        last = map;
    }
    lists->first = 0;
    lists->count = 0;
}

static void write_words(const struct patch *patch, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        machine_store(patch[i].address, patch[i].value, 8);
}

/* Constructors have run, and the program's own list shall be of its own maps alone. */
void spaces_entered(void)
{
    write_words(spaces_table->at_entry, spaces_table->at_entry_count);
}

void spaces_finish(void)
{
    write_words(spaces_table->at_end, spaces_table->at_end_count);
    for (uint64_t i = 0; i < spaces_table->count; i++)
        merge(spaces_table->space[i].lists);
    ((void (*)(void))spaces_table->finish)();
}
