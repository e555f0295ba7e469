/* A kept link on disk; src/spidl/cache/entry.py writes it. Little-endian, no padding. */
#ifndef SPIDL_ENTRY_H
#define SPIDL_ENTRY_H

#include "../boot/actions.h"

#define ENTRY_MAGIC 0x3159525444495053u /* "SPIDTRY1" */

enum { ENTRY_POLICY = 1, ENTRY_ERROR = 2 };
enum { INPUT_FRONT = 1, INPUT_ABSENT = 2 };

struct entry_header {
    uint64_t magic;
    uint64_t checksum; /* hash_words of all that follows this word */
    uint32_t size;     /* bytes of the file, a multiple of 8; the last byte is NUL */
    uint32_t flags;
    uint32_t key, key_size;
    uint32_t words, words_size; /* tagged strings, see request.c */
    uint32_t image;             /* file name; 0: the program is refused */
    uint32_t message;           /* why it is refused */
    uint32_t boot;              /* the kernel's boot id when this was linked */
    uint32_t inputs, input_count;
    uint32_t reserved;
    struct spidl_file_identity written; /* the image as it was written */
    uint8_t digest[32];                 /* its SHA-256, for `spidl cache verify` */
};
_Static_assert(sizeof(struct entry_header) == 152, "entry header");

/* What must be as it was. Most inputs are the image's own to check; FRONT ones are not. */
struct entry_input {
    struct spidl_file_identity identity;
    uint32_t path, flags;
};
_Static_assert(sizeof(struct entry_input) == 64, "entry input");

#endif
