/* Starting a program: through its image, after a link, or the plain way. */
#include "entry.h"
#include "launcher.h"

enum { ATTEMPTS = 3, KEPT = 0, PLAINLY = 3 };
enum { WRITE_ = 2, F_GETLK_ = 5, F_WRLCK_ = 1, F_UNLCK_ = 2 };
enum { PAUSE = 600 }; /* seconds */
enum { EROFS_ = 30, EMPTY_PATH = 0x1000 };

struct kernel_flock {
    int16_t type, whence;
    int32_t pad;
    int64_t start, length;
    int32_t pid, pad2;
};

int64_t execute(const char *path, char **argv)
{
    return system_call(SYS_EXECVE, number_of(path), number_of(argv), number_of(launcher_envp), 0,
                       0, 0);
}

void start_plainly(const struct request *request)
{
    if (is_launcher(request->program))
        die("loop", "the program is Spidl itself", request->program, 0, "spidl disable it",
            STATUS_BROKEN);
    int64_t error = execute(request->program, request->argv);
    int status = !request->quiet ? STATUS_USAGE : error == -ENOENT_ ? STATUS_BROKEN : STATUS_POLICY;
    die("exec", "cannot execute", request->program, error,
        "check the file's permissions and its format", status);
}

/* A module may enforce a policy: only Python knows, or an entry that these settings made. */
int may_have_policy(const struct request *request)
{
    struct kernel_stat now;
    if (request->policy)
        return request->policy == 2;
    for (uint32_t i = 0; i < request->options.count; i++)
        if (!after_prefix(request->options.word[i], "--layout="))
            return 1;
    return request->config && status_of(request->config, &now) == 0;
}

static uint64_t offset_of(const char *name)
{
    uint64_t number = 0;
    for (int i = 0; i < 15; i++)
        number = number << 4 | (uint64_t)(name[i] <= '9' ? name[i] - '0' : name[i] - 'a' + 10);
    return number;
}

/* Whether some process holds the lock that `spidl keep` takes while it links this. */
static int is_busy(const struct request *request, const struct key *key)
{
    struct kernel_flock lock = {F_WRLCK_, 0, 0, (int64_t)offset_of(key->name), 1, 0, 0};
    const char *path = joined(request->cache, "/lock", "");
    if (!path)
        return 0;
    int64_t file = system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_, number_of(path), OPEN_FLAGS, 0, 0,
                               0);
    if (file < 0)
        return 0;
    int64_t error = system_call(SYS_FCNTL, (uint64_t)file, F_GETLK_, number_of(&lock), 0, 0, 0);
    system_call(SYS_CLOSE, (uint64_t)file, 0, 0, 0, 0, 0);
    return !error && lock.type != F_UNLCK_;
}

/* A link that cannot be kept costs every start Python's time for nothing. */
static int is_unwritable(const char *cache)
{
    struct kernel_stat now;
    int error = status_of(cache, &now);
    if (!error && !is_private_file(&now, FOLDER))
        return 1;
    char *place = joined(cache, "", "");
    while (error == -ENOENT_ && place && *place) { /* the folder that it would be made in */
        char *end = place + text_length(place);
        while (end > place && *--end != '/')
            ;
        *end = 0;
        error = status_of(*place ? place : "/", &now);
    }
    if (!error && now.user && now.user != user())
        return 1; /* sudo with another user's home */
    error = (int)system_call(SYS_FACCESSAT, (uint64_t)AT_FDCWD_,
                             number_of(place && *place ? place : "/"), WRITE_, 0, 0, 0);
    return error == -EACCES_ || error == -EROFS_;
}

/* Python leaves its mark on the lock file where a link could not be kept. */
static int has_failed_lately(const char *cache)
{
    struct kernel_stat now;
    char *path = joined(cache, "/lock", "");
    if (!path || status_of(path, &now))
        return 0;
    int64_t age = system_call(SYS_TIME, 0, 0, 0, 0, 0, 0) - now.mtime[0];
    return age >= 0 && age < PAUSE;
}

static _Noreturn void use(const struct request *request, const struct entry *entry)
{
    int policy = entry->header->flags & ENTRY_POLICY;
    if (!entry->image) {
        if (policy) {
            link_now(request, 0); /* says what is wrong */
            leave(STATUS_USAGE);
        }
        say_plain("refused", entry_text(entry, entry->header->message));
        start_plainly(request);
    }
    /* The file that was checked, whatever the path leads to by now. */
    int64_t error = system_call(SYS_EXECVEAT, (uint64_t)entry->file, number_of(""),
                                number_of(request->argv), number_of(launcher_envp), EMPTY_PATH, 0);
    if (policy)
        die("exec", "cannot execute", entry->image, error,
            "check whether the file system is mounted `noexec`, or set SPIDL_CACHE", STATUS_USAGE);
    if (request->quiet)
        say_plain("cannot execute", entry->image);
    else
        warn("exec", "cannot execute the image", entry->image, error);
    start_plainly(request);
}

/* Makes the link, if this is the time for it; otherwise the program starts the plain way. */
static void make(const struct request *request, const struct key *key, const char *but,
                 const char *reason, const char *detail)
{
    const char *when = variable("SPIDL_RELINK");
    int policy = may_have_policy(request);
    if (!policy) {
        int never = when && same_text(when, "never");
        if (!never && key && is_busy(request, key))
            reason = "another process is linking it", never = 1;
        else if (request->quiet && !key)
            never = 1; /* nothing can be kept */
        else if (request->quiet && is_unwritable(request->cache))
            reason = "the cache folder cannot be written to", detail = request->cache, never = 1;
        else if (request->quiet && !but && has_failed_lately(request->cache))
            reason = "a link could not be kept some minutes ago", detail = 0, never = 1;
        int later = when && same_text(when, "later");
        if (!never && later)
            link_later(request, but);
        if (never || later) {
            say_plain(reason, detail);
            start_plainly(request);
        }
    }
    int status = link_now(request, but);
    if (status == KEPT)
        return;
    if (status == PLAINLY)
        start_plainly(request);
    if (status == STATUS_USAGE && (policy || !request->quiet))
        leave(status); /* it said why */
    if (policy)
        die("no-link", "the program could not be linked", request->program, 0,
            "SPIDL_TRACEBACK=1 may say why", STATUS_USAGE);
    if (!request->quiet)
        warn("no-link", "linking it came to a sudden end", request->program, 0);
    start_plainly(request);
}

/* What the entry says holds while nothing has changed that Python would ask: not the libraries. */
static void learn_policy(struct request *request, const struct entry *entry)
{
    if (!input_fault(entry, 0))
        request->policy = entry->header->flags & ENTRY_POLICY ? 2 : 1;
}

void start(struct request *request)
{
    struct key key;
    struct entry entry;
    if (launcher_secure) {
        if (may_have_policy(request))
            die("policy", "a privileged start, and a policy must be enforced", request->program, 0,
                "start it without privileges", STATUS_POLICY);
        say_plain("a privileged start", 0);
        start_plainly(request);
    }
    if (*request->program != '/') {
        if (may_have_policy(request))
            die("policy", "the working folder has no path", request->program, 0,
                "start it from another folder", STATUS_POLICY);
        say_plain("the working folder has no path", 0);
        start_plainly(request);
    }
    int keyed = request->cache && make_key(request, &key);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        const char *detail = 0;
        const char *reason = keyed ? find_entry(request->cache, &key, &entry) : "no cache folder";
        if (!reason && (detail = front_fault(&entry)))
            reason = "changed since the link", learn_policy(request, &entry);
        else if (!reason)
            request->policy = entry.header->flags & ENTRY_POLICY ? 2 : 1;
        if (!reason && !request->quiet && attempt == 0 && entry.header->flags & ENTRY_ERROR)
            reason = "it could not be linked"; /* Python says so once more */
        if (reason)
            make(request, keyed ? &key : 0, 0, reason, detail);
        else
            use(request, &entry);
    }
    if (may_have_policy(request))
        die("no-image", "the image is removed as soon as it is made", request->program, 0,
            "see what empties the cache, or set SPIDL_CACHE to another folder", STATUS_USAGE);
    if (!request->quiet)
        warn("no-image", "the image is removed as soon as it is made", request->program, 0);
    start_plainly(request);
}

/* An image found that it does not fit this start, and came back: POLICY ENTRY "\n" PROGRAM. */
void restart(const char *stale)
{
    struct request request = {0};
    struct entry entry;
    struct key key;
    if (!stale)
        die("stale", "this is for Spidl's own use", 0, 0, "use spidl run", STATUS_USAGE);
    int policy = *stale++ == 'P';
    char *folder = joined(stale, "", ""), *end = folder;
    request.argv = launcher_argv;
    request.quiet = 1;
    while (end && *end && *end != '\n')
        end++;
    if (!end || !*end)
        die("stale", "SPIDL_STALE is for Spidl's own use", stale, 0, "unset it", STATUS_USAGE);
    *end = 0;
    request.program = end + 1;
    const char *fault = launcher_secure ? "a privileged start" : open_entry(folder, &entry);
    const char *changed = 0;
    if (!fault) {
        const char *program = request.program;
        if (!entry_words(&entry, &request) || !request.cache ||
            !same_text(request.program, program)) {
            request.program = program;
            fault = "an entry of something else";
        }
    }
    if (!fault) {
        learn_policy(&request, &entry);
        changed = input_fault(&entry, 1);
        if (!changed && !is_from_this_boot(&entry))
            changed = "another start of the machine";
    }
    if (fault || !changed) {
        if (policy)
            die("policy", fault ? fault : "this start differs from the one that was linked",
                request.program, 0, "SPIDL_VERBOSE=1 says in what", STATUS_POLICY);
        if (fault)
            say_plain(fault, folder);
        start_plainly(&request);
    }
    char but[17];
    hexadecimal(but, entry.header->checksum, 16);
    if (make_key(&request, &key)) {
        make(&request, &key, but, "changed since the link", changed);
        /* Once is enough for what never stays the same. */
        fault = find_entry(request.cache, &key, &entry);
        if (!fault && (changed = input_fault(&entry, 1))) {
            if (policy || may_have_policy(&request))
                die("policy", "an input changes all the time", changed, 0,
                    "wait until it is at rest", STATUS_POLICY);
            say_plain("an input changes all the time", changed);
            start_plainly(&request);
        }
    }
    start(&request);
}
