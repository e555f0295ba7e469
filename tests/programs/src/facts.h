/* A test program prints facts, a line each, without addresses or process ids: the same lines must
   come out under the system's linker and as an image.  argv[1] picks one behaviour. */
#ifndef FACTS_H
#define FACTS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FACT(...) (printf(__VA_ARGS__), putchar('\n'))

struct behaviour {
  const char *name;
  int (*run)(int argc, char **argv);
};

static inline int run_behaviour(const struct behaviour *first, size_t count, int argc,
                                char **argv) {
  for (size_t i = 0; i < count; i++)
    if (argc > 1 && !strcmp(argv[1], first[i].name)) return first[i].run(argc, argv);
  fprintf(stderr, "no behaviour %s\n", argc > 1 ? argv[1] : "given");
  return 100;
}

#define BEHAVIOURS(...)                                                                   \
  int main(int argc, char **argv) {                                                       \
    static const struct behaviour all[] = {__VA_ARGS__};                                  \
    return run_behaviour(all, sizeof all / sizeof *all, argc, argv);                      \
  }

/* The last part of a path: scratch folders differ between machines, names do not. */
static inline const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

#endif
