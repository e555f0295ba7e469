#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <elf.h>
#include <execinfo.h>
#include <link.h>
#include <sys/auxv.h>
#include <unistd.h>
#include <unwind.h>

#include "facts.h"

int counter_next(void);
int interposed(void);
int wrapped_calls(void);
extern char _start[], __ehdr_start[];
int exported_variable = 3;

static int show_object(struct dl_phdr_info *info, size_t size, void *count) {
  int loads = 0, text = 0, headers_match = -1;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
    loads += segment->p_type == PT_LOAD;
    text += segment->p_type == PT_LOAD && segment->p_flags & PF_X;
    if (segment->p_type == PT_LOAD && !segment->p_offset) {
      const ElfW(Ehdr) *header = (void *)(info->dlpi_addr + segment->p_vaddr);
      headers_match = !memcmp(header->e_ident, ELFMAG, SELFMAG) &&
                      header->e_phnum == info->dlpi_phnum;
    }
  }
  FACT("'%s' phnum %d loads %d text %d header %d tls %zu block %d", base_name(info->dlpi_name),
       info->dlpi_phnum, loads, text, headers_match, info->dlpi_tls_modid,
       info->dlpi_tls_data != NULL);
  if (size < sizeof *info) return FACT("short structure"), 1;
  ++*(int *)count;
  return 0;
}

static int walk(const char *when) {
  int count = 0;
  FACT("%s:", when);
  dl_iterate_phdr(show_object, &count);
  return count;
}

static int show_counts(struct dl_phdr_info *info, size_t size, void *out) {
  (void)size;
  memcpy(out, (unsigned long long[]){info->dlpi_adds, info->dlpi_subs}, 16);
  return 1;
}

static int iterate(int argc, char **argv) {
  (void)argc, (void)argv;
  unsigned long long counts[2];
  FACT("objects %d", walk("at start"));
  void *plugin = dlopen("libplugin.so", RTLD_NOW);
  FACT("objects %d", walk("after dlopen"));
  dlclose(plugin);
  FACT("objects %d", walk("after dlclose"));
  dl_iterate_phdr(show_counts, counts);
  FACT("adds %llu subs %llu", counts[0], counts[1]);
  return 0;
}

static void where(const char *what, const void *address) {
  Dl_info info;
  if (!dladdr(address, &info)) {
    FACT("%s: nowhere", what);
    return;
  }
  FACT("%s: %s in %s, exact %d", what, info.dli_sname ? info.dli_sname : "-",
       base_name(info.dli_fname), info.dli_saddr == address);
}

static int addresses(int argc, char **argv) {
  (void)argc, (void)argv;
  static int local;
  int on_stack;
  where("library function", dlsym(RTLD_DEFAULT, "counter_next"));
  where("inside it", (char *)dlsym(RTLD_DEFAULT, "counter_next") + 1);
  where("own variable", &exported_variable);
  where("own static", &local);
  where("libc function", dlsym(RTLD_DEFAULT, "getenv"));
  where("stdout", stdout);
  where("stack", &on_stack);
  where("heap", malloc(3));
  Dl_info info;
  struct link_map *map;
  dladdr1(dlsym(RTLD_DEFAULT, "counter_next"), &info, (void **)&map, RTLD_DL_LINKMAP);
  FACT("link_map %s, base matches %d", base_name(map->l_name), (void *)map->l_addr == info.dli_fbase);
  dladdr(_start, &info);
  FACT("main is named %s, its base is its header: %d", base_name(info.dli_fname),
       info.dli_fbase == __ehdr_start);
  return 0;
}

static int next(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("interposed %d", interposed());
  FACT("wrapped libc function %d", (int)getppid());
  FACT("calls %d", wrapped_calls());
  FACT("default finds the first: %d", dlsym(RTLD_DEFAULT, "interposed") == (void *)interposed);
  FACT("next from main differs or not: %d", dlsym(RTLD_NEXT, "interposed") == (void *)interposed);
  return 0;
}

static int find_base(struct dl_phdr_info *info, size_t size, void *out) {
  (void)size;
  if (strstr(info->dlpi_name, "ld-linux")) *(ElfW(Addr) *)out = info->dlpi_addr;
  return 0;
}

static int auxv(int argc, char **argv) {
  ElfW(Addr) base = 0;
  (void)argc;
  dl_iterate_phdr(find_base, &base);
  const ElfW(Ehdr) *header = (void *)__ehdr_start;
  FACT("AT_ENTRY is _start: %d", getauxval(AT_ENTRY) == (unsigned long)_start);
  FACT("AT_PHDR follows the header: %d",
       getauxval(AT_PHDR) == (unsigned long)__ehdr_start + header->e_phoff);
  FACT("AT_PHNUM %d, AT_PHENT %lu", getauxval(AT_PHNUM) == header->e_phnum, getauxval(AT_PHENT));
  FACT("AT_BASE is ld.so: %d", base && getauxval(AT_BASE) == base);
  FACT("AT_EXECFN %s", base_name((char *)getauxval(AT_EXECFN)));
  FACT("AT_SECURE %lu, AT_UID %d", getauxval(AT_SECURE), getauxval(AT_UID) == getuid());
  FACT("AT_PLATFORM %s", (char *)getauxval(AT_PLATFORM));
  FACT("r_debug: version %d, state %d, base %d", _r_debug.r_version > 0, _r_debug.r_state,
       _r_debug.r_ldbase == base);
  FACT("argv[0] %s, short name %s", base_name(argv[0]), program_invocation_short_name);
  ElfW(auxv_t) entries[64];
  FILE *file = fopen("/proc/self/auxv", "r");
  size_t count = file ? fread(entries, sizeof *entries, 64, file) : 0;
  int wrong = 0;
  for (size_t i = 0; i < count && entries[i].a_type != AT_NULL; i++)
    wrong += getauxval(entries[i].a_type) != entries[i].a_un.a_val;
  FACT("/proc/self/auxv read %d, entries that differ %d", count > 10, wrong);
  return 0;
}

static __attribute__((noinline)) void innermost(void) {
  void *frames[32];
  int count = backtrace(frames, 32);
  char **names = backtrace_symbols(frames, count);
  FACT("more than four frames: %d", count > 4);
  for (int i = 0; i < count; i++) {
    char *name = (char *)base_name(names[i]);
    name[strcspn(name, "+")] = 0;
    FACT("%s", name);
    if (strstr(name, "(main")) break;
  }
}
__attribute__((noinline)) void middle(void) { innermost(), FACT("middle returns"); }
static int compare_ints(const void *a, const void *b) {
  static int once;
  if (!once++) middle();
  return *(const int *)a - *(const int *)b;
}

static int trace(int argc, char **argv) {
  (void)argc, (void)argv;
  int numbers[] = {3, 1, 2};
  qsort(numbers, 3, sizeof *numbers, compare_ints);
  FACT("%d %d %d", numbers[0], numbers[1], numbers[2]);
  return 0;
}

static _Unwind_Reason_Code count_frame(struct _Unwind_Context *context, void *count) {
  (void)context;
  ++*(int *)count;
  return _URC_NO_REASON;
}

static int unwind(int argc, char **argv) {
  (void)argc, (void)argv;
  int count = 0;
  _Unwind_Backtrace(count_frame, &count);
  FACT("frames %d", count);
  return 0;
}

/* What debuggers read: the chain of maps from DT_DEBUG. */
static int debug_chain(int argc, char **argv) {
  (void)argc, (void)argv;
  for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag; entry++)
    if (entry->d_tag == DT_DEBUG)
      FACT("DT_DEBUG points at r_debug: %d", (void *)entry->d_un.d_ptr == (void *)&_r_debug);
  for (struct link_map *map = _r_debug.r_map; map; map = map->l_next)
    FACT("%s, dynamic %d", base_name(map->l_name), map->l_ld != NULL);
  return 0;
}

BEHAVIOURS({"iterate", iterate}, {"dladdr", addresses}, {"next", next}, {"auxv", auxv},
           {"backtrace", trace}, {"unwind", unwind}, {"debug-chain", debug_chain})
