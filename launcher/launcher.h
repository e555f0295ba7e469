/* The `spidl` command: finds the kept image of a program and executes it; all else is Python's.
   One run is one decision, so state lives in a few statics and nothing is ever freed. */
#ifndef SPIDL_LAUNCHER_H
#define SPIDL_LAUNCHER_H

#include "../boot/common.h"

enum {
    SYS_READ = 0,
    SYS_SIGACTION = 13,
    SYS_DUP2 = 33,
    SYS_GETPID = 39,
    SYS_FORK = 57,
    SYS_WAIT4 = 61,
    SYS_UNAME = 63,
    SYS_FCNTL = 72,
    SYS_GETCWD = 79,
    SYS_READLINK = 89,
    SYS_GETEUID = 107,
    SYS_SETSID = 112,
    SYS_TIME = 201,
    SYS_FACCESSAT = 269,
    SYS_UTIMENSAT = 280,
    SYS_EXECVEAT = 322,
    SYS_CLOSE_RANGE = 436,
};
enum { KIND = 0170000, FOLDER = 0040000, REGULAR = 0100000 };
enum { AUX_SECURE = 23 };

enum { STATUS_USAGE = 2, STATUS_POLICY = 126, STATUS_BROKEN = 127 };
enum { WORDS = 64 };

/* What the kernel gave this process. */
extern char **launcher_argv, **launcher_envp;
extern const char *launcher_execfn;
extern int launcher_secure; /* AT_SECURE: the environment is not to be trusted */

/* Python's command line: the interpreter and its options, before Spidl's own words. */
struct words {
    const char *word[WORDS];
    uint32_t count;
};

/* What is to be started, and how it is linked. */
struct request {
    const char *program; /* absolute */
    const char *cache;   /* the cache folder, or 0 where nothing says one */
    const char *config;  /* spidl.toml, or 0 */
    struct words options, python;
    char **argv; /* the program's own words, its argv[0] first */
    int full_name; /* argv[0] is the program's path: it looks for its files beside itself */
    int policy;    /* whether a module enforces one: 0 not known, 1 no, 2 yes */
    int quiet;     /* a link error starts the program the plain way, as if Spidl were not there */
};

/* text.c */
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
const char *base_name(const char *path);
char *joined(const char *a, const char *b, const char *c); /* 0 where memory ends */
int add_word(struct words *words, const char *word);
void *reserve(uint64_t size); /* 8-byte aligned; 0 where memory ends */

/* message.c */
_Noreturn void leave(int status);
_Noreturn void die(const char *code, const char *text, const char *place, int64_t error,
                   const char *help, int status);
void warn(const char *code, const char *text, const char *place, int64_t error);
void say_plain(const char *reason, const char *detail); /* with SPIDL_VERBOSE only */

/* world.c */
const char *variable(const char *name); /* the value, or 0 */
char *take_variable(const char *name);  /* the same, and out of the environment */
int status_of(const char *path, struct kernel_stat *now);
int is_launcher(const char *path); /* this very file, or a name that stands for a program */
const char *own_path(void);
const char *working_folder(void); /* or 0 */
const char *link_target(const char *path);
const char *find_program(const char *name); /* absolute, or 0 */
const char *find_next(const char *path);
uint32_t user(void); /* effective */
int is_private_file(const struct kernel_stat *now, uint32_t kind);

/* key.c */
struct key {
    const char *text;
    uint64_t size; /* bytes, a multiple of 8 */
    char name[17]; /* of the entry's folder: hexadecimal digits of the text's hash */
};
void hexadecimal(char *out, uint64_t number, int digits);
uint64_t hash_words(const uint64_t *words, uint64_t count);
int has_relative(const char *list);
int make_key(const struct request *request, struct key *key);

/* entry.c */
struct entry {
    const struct entry_header *header;
    const char *image;  /* path, or 0: the program is refused */
    const char *folder; /* path */
    int file;           /* the image's descriptor, closed by execve */
};
/* Why there is no entry that may be used; 0 where there is one. */
const char *find_entry(const char *cache, const struct key *key, struct entry *entry);
const char *open_entry(const char *folder, struct entry *entry);
const char *front_fault(const struct entry *entry);
const char *input_fault(const struct entry *entry, int all);
const char *entry_text(const struct entry *entry, uint32_t offset);
int entry_words(const struct entry *entry, struct request *request);
int is_from_this_boot(const struct entry *entry);

/* request.c */
void defaults(struct request *request);
int read_words(struct request *request, const char *text, uint64_t size);
int is_option(const char *word);
char **parse_run(struct request *request, char **word); /* 0: left to Python */

/* start.c */
_Noreturn void start(struct request *request);
_Noreturn void restart(const char *stale);
_Noreturn void start_plainly(const struct request *request);
int64_t execute(const char *path, char **argv); /* a negative errno */
int may_have_policy(const struct request *request);

/* link.c */
_Noreturn void hand_over(const struct words *python, char **words);
int link_now(const struct request *request, const char *but); /* Python's exit status, or 256 */
void link_later(const struct request *request, const char *but);

#endif
