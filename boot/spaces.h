/* Namespaces of ld.so in an image: what its code that stays in the process shares.
   spidl.targets.exec.spaces writes the table; every number is of 64 bits. */
#ifndef SPIDL_SPACES_H
#define SPIDL_SPACES_H

#include "system.h"

enum { PATH_SIZE = 1024, DEPTH = 12 };
enum { LMID_CALLER = -2 };

/* The public part of struct link_map, and what is next to it in all glibcs. */
struct map {
    uint64_t bias;
    const char *name;
    const struct dynamic *dynamic;
    struct map *next, *previous, *real;
    int64_t space;
    const struct alias *aliases;
};

struct dynamic {
    uint64_t tag, value;
};

struct alias {
    const char *name;
    const struct alias *next;
};

/* glibc's struct link_namespaces, its beginning. */
struct lists {
    struct map *first;
    uint32_t count, pad;
};

struct lent {
    const char *name, *path;
};

struct space {
    struct lists *lists;
    int64_t number;
    const char *root;        /* without a slash at its end */
    const struct lent *lent; /* libraries that come from the program's side, by soname */
    uint64_t lent_count;
};

/* A word to write. */
struct patch {
    uint64_t address, value;
};

/* pthread_mutex_t of kind PTHREAD_MUTEX_RECURSIVE. */
struct mutex {
    int32_t word;
    uint32_t count;
    int32_t owner;
    uint32_t users;
};

struct spaces {
    uint64_t open, finish, entry; /* what these functions stand before */
    struct lists *base;
    struct mutex *lock; /* _dl_load_lock */
    /* Offsets in struct link_map. */
    uint64_t start, end, needs, strings, soname, rpath, runpath;
    const struct patch *at_entry;
    uint64_t at_entry_count;
    const struct patch *at_end;
    uint64_t at_end_count;
    uint64_t count;
    struct space space[];
};

extern struct spaces *const spaces_table __attribute__((visibility("hidden")));

/* A library that asks for others: where its own search path and $ORIGIN come from. */
struct asker {
    const char *runpath, *origin; /* the file's path */
};

int is_same(const char *one, const char *other);
int has_slash(const char *text);
uint64_t text_size(const char *text);
/* The file that a name means inside of the space's root; 0 where there is none. */
int find_file(const struct space *space, const char *name, const struct asker *asker,
              char path[PATH_SIZE]);

/* A file's bytes for as long as they are looked at. */
struct file {
    const uint8_t *bytes;
    uint64_t size;
};
int map_file(const char *path, struct file *file);
void unmap_file(struct file *file);
/* A text in a file, "" where there is none. */
const char *text_in(const struct file *file, uint64_t offset);
/* The file's dynamic entries, and the offset of its strings; 0 for no library of this machine. */
const struct dynamic *dynamic_of(const struct file *file, uint64_t *count, uint64_t *strings);

#endif
