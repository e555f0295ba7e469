/* Kept links: found, checked, believed only where nobody else could have written them. */
#include "entry.h"
#include "launcher.h"

enum { PATH_FLAGS = 012000000, FOLDER_FLAGS = 012200000 }; /* O_PATH; O_DIRECTORY */
enum { FILE_FLAGS = 02004000 };                           /* O_NONBLOCK */
enum { LINK_ITSELF = 0400000 };                           /* O_NOFOLLOW */
enum { READ = 1, PRIVATE_POPULATE = 2 | 0x8000, SMALLEST = 160, LARGEST = 1 << 24 };
enum { HOUR = 3600 };

const char *entry_text(const struct entry *entry, uint32_t offset)
{
    return (const char *)entry->header + offset;
}

/* Each folder by its descriptor: what was checked is what is used. */
static int open_private(int parent, const char *name, int flags)
{
    struct kernel_stat now;
    int folder = (int)system_call(SYS_OPENAT, (uint64_t)(int64_t)parent, number_of(name),
                                  (uint64_t)(FOLDER_FLAGS | flags), 0, 0, 0);
    if (folder < 0)
        return folder;
    if (system_call(SYS_FSTAT, (uint64_t)folder, number_of(&now), 0, 0, 0, 0) ||
        !is_private_file(&now, FOLDER)) {
        system_call(SYS_CLOSE, (uint64_t)folder, 0, 0, 0, 0, 0);
        return -EACCES_;
    }
    return folder;
}

static int fits(const struct entry_header *header, uint32_t offset, uint64_t size)
{
    return offset <= header->size && size <= header->size - offset;
}

static const char *header_fault(const struct entry_header *header, uint64_t size)
{
    if (header->magic != ENTRY_MAGIC)
        return "the entry is of another version";
    if (header->size != size || size % 8 ||
        header->checksum != hash_words(&header->checksum + 1, size / 8 - 2))
        return "the entry is damaged";
    if (((const char *)header)[size - 1] || header->image >= size || header->message >= size ||
        header->boot >= size || !fits(header, header->key, header->key_size) ||
        !fits(header, header->words, header->words_size) || header->inputs % 8 ||
        !fits(header, header->inputs, (uint64_t)header->input_count * sizeof(struct entry_input)))
        return "the entry is malformed";
    const struct entry_input *input = (const void *)((const char *)header + header->inputs);
    for (uint32_t i = 0; i < header->input_count; i++)
        if (input[i].path >= size)
            return "the entry is malformed";
    return 0;
}

/* How long an entry has not been used is the age of its file, to the hour. */
static void touch(int file, const struct kernel_stat *status)
{
    int64_t now = system_call(SYS_TIME, 0, 0, 0, 0, 0, 0);
    if (now - status->mtime[0] > HOUR || now < status->mtime[0])
        system_call(SYS_UTIMENSAT, (uint64_t)file, 0, 0, 0, 0, 0);
}

static const char *map_entry(int folder, struct entry *entry)
{
    struct kernel_stat now;
    int file = (int)system_call(SYS_OPENAT, (uint64_t)folder, number_of("entry"),
                                FILE_FLAGS | LINK_ITSELF, 0, 0, 0);
    if (file < 0)
        return "no entry";
    const char *fault = 0;
    if (system_call(SYS_FSTAT, (uint64_t)file, number_of(&now), 0, 0, 0, 0) ||
        !is_private_file(&now, REGULAR))
        fault = "another user could have written the entry";
    else if (now.size < SMALLEST || now.size > LARGEST)
        fault = "the entry is damaged";
    else {
        int64_t at = system_call(SYS_MMAP, 0, (uint64_t)now.size, READ, PRIVATE_POPULATE,
                                 (uint64_t)file, 0);
        entry->header = (const void *)at;
        fault = at < 0 ? "the entry cannot be read" : header_fault(entry->header, (uint64_t)now.size);
        if (!fault)
            touch(file, &now);
    }
    system_call(SYS_CLOSE, (uint64_t)file, 0, 0, 0, 0, 0);
    return fault;
}

static const char *image_fault(int folder, struct entry *entry)
{
    struct kernel_stat now;
    const char *name = entry_text(entry, entry->header->image);
    entry->image = 0;
    if (!entry->header->image)
        return 0;
    for (const char *c = name; *c; c++)
        if (*c == '/')
            return "the entry is malformed";
    entry->file = (int)system_call(SYS_OPENAT, (uint64_t)folder, number_of(name),
                                   PATH_FLAGS | LINK_ITSELF, 0, 0, 0);
    if (entry->file < 0)
        return "no image";
    if (system_call(SYS_FSTAT, (uint64_t)entry->file, number_of(&now), 0, 0, 0, 0) ||
        !is_private_file(&now, REGULAR) || !same_file(&now, &entry->header->written)) {
        system_call(SYS_CLOSE, (uint64_t)entry->file, 0, 0, 0, 0, 0);
        return "the image is not the one that was written";
    }
    entry->image = joined(entry->folder, "/", name);
    return entry->image ? 0 : "out of memory";
}

static const char *use_folder(int folder, struct entry *entry)
{
    const char *fault = map_entry(folder, entry);
    if (!fault)
        fault = image_fault(folder, entry);
    system_call(SYS_CLOSE, (uint64_t)folder, 0, 0, 0, 0, 0);
    return fault;
}

static const char *in_images(const char *cache, const char *name, struct entry *entry)
{
    int top = open_private(AT_FDCWD_, cache, 0), images, folder;
    if (top < 0)
        return "the cache folder is not there, or not private";
    images = open_private(top, "images", 0);
    system_call(SYS_CLOSE, (uint64_t)top, 0, 0, 0, 0, 0);
    if (images < 0)
        return "no entry";
    folder = open_private(images, name, LINK_ITSELF);
    system_call(SYS_CLOSE, (uint64_t)images, 0, 0, 0, 0, 0);
    if (folder < 0)
        return "no entry";
    char *above = joined(cache, "/images/", name);
    if (!above)
        return "out of memory";
    entry->folder = above;
    return use_folder(folder, entry);
}

const char *find_entry(const char *cache, const struct key *key, struct entry *entry)
{
    const char *fault = in_images(cache, key->name, entry);
    if (fault)
        return fault;
    const char *kept = entry_text(entry, entry->header->key);
    if (entry->header->key_size != key->size)
        return "an entry of something else";
    for (uint64_t i = 0; i < key->size; i++)
        if (kept[i] != key->text[i])
            return "an entry of something else";
    return 0;
}

/* CACHE/images/NAME */
const char *open_entry(const char *folder, struct entry *entry)
{
    const char *name = base_name(folder);
    char *cache = joined(folder, "", "");
    if (!cache)
        return "out of memory";
    char *end = cache + (name - folder);
    for (int parts = 0; parts < 2; parts++) {
        while (end > cache && end[-1] == '/')
            end--;
        if (parts)
            break;
        while (end > cache && end[-1] != '/')
            end--;
    }
    *end = 0;
    return in_images(cache, name, entry);
}

static const char *changed(const struct entry *entry, const struct entry_input *input)
{
    struct kernel_stat now;
    const char *path = entry_text(entry, input->path);
    int error = status_of(path, &now);
    if (input->flags & INPUT_ABSENT)
        return error ? 0 : path; /* what cannot be looked at cannot be loaded */
    return error || !same_file(&now, &input->identity) ? path : 0;
}

/* The path of the first input that is not as it was. */
const char *input_fault(const struct entry *entry, int all)
{
    const struct entry_input *input =
        (const void *)((const char *)entry->header + entry->header->inputs);
    for (uint32_t i = 0; i < entry->header->input_count; i++)
        if (all || input[i].flags & INPUT_FRONT) {
            const char *path = changed(entry, &input[i]);
            if (path)
                return path;
        }
    return 0;
}

/* An image checks its own inputs; for a refusal there is nobody else. */
const char *front_fault(const struct entry *entry)
{
    return input_fault(entry, !entry->image);
}

int entry_words(const struct entry *entry, struct request *request)
{
    return read_words(request, entry_text(entry, entry->header->words), entry->header->words_size);
}

int is_from_this_boot(const struct entry *entry)
{
    enum { SIZE = 36 };
    char now[SIZE + 1] = {0};
    const char *then = entry_text(entry, entry->header->boot);
    int file = (int)system_call(SYS_OPENAT, (uint64_t)AT_FDCWD_,
                                number_of("/proc/sys/kernel/random/boot_id"), FILE_FLAGS, 0, 0, 0);
    if (file < 0)
        return !*then;
    int64_t size = system_call(SYS_READ, (uint64_t)file, number_of(now), SIZE, 0, 0, 0);
    system_call(SYS_CLOSE, (uint64_t)file, 0, 0, 0, 0, 0);
    return size == SIZE && same_text(now, then);
}
