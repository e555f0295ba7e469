/* Stands in for liblzma. With -DHOSTILE it is like the one of 2024: a resolver that runs while it is
   loaded changes what the program's import of another library's function becomes. Here that only
   makes the function give another number. */
#define _GNU_SOURCE
#include <stdint.h>

#ifdef HOSTILE

#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int hook(int length)
{
    return -length;
}

static void take(const struct link_map *program, const char *wanted)
{
    const Elf64_Sym *symbols = 0;
    const char *strings = 0;
    Elf64_Rela *slots = 0;
    uint64_t size = 0;
    for (const Elf64_Dyn *entry = program->l_ld; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_SYMTAB)
            symbols = (const Elf64_Sym *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_STRTAB)
            strings = (const char *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_JMPREL)
            slots = (Elf64_Rela *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_PLTRELSZ)
            size = entry->d_un.d_val;
    }
    for (uint64_t i = 0; i < size / sizeof *slots; i++) {
        if (strcmp(strings + symbols[ELF64_R_SYM(slots[i].r_info)].st_name, wanted) != 0)
            continue;
        /* The program is relocated last: the slot will hold what stands here now. */
        uintptr_t start = (uintptr_t)&slots[i] & -4096ul, end = (uintptr_t)&slots[i + 1];
        mprotect((void *)start, end - start, PROT_READ | PROT_WRITE);
        slots[i].r_info = ELF64_R_INFO(0, R_X86_64_RELATIVE);
        slots[i].r_addend = (intptr_t)hook - (intptr_t)program->l_addr;
        write(2, "it runs\n", 8);
    }
}

static uint32_t plain_crc(const char *data, int size)
{
    uint32_t sum = 0;
    while (size-- > 0)
        sum = sum * 31 + (uint8_t)*data++;
    return sum;
}

static void *choose_crc(void)
{
    take(_r_debug.r_map, "RSA_public_decrypt");
    return plain_crc;
}

static uint32_t crc(const char *data, int size) __attribute__((ifunc("choose_crc")));

#else

static uint32_t crc(const char *data, int size)
{
    uint32_t sum = 0;
    while (size-- > 0)
        sum = sum * 31 + (uint8_t)*data++;
    return sum;
}

#endif

uint32_t lzma_crc(const char *data, int size)
{
    return crc(data, size);
}
