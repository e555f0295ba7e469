/* Does what its arguments say: `in` what follows from inside the capsule, `out` from outside. */
#include "facts.h"

int inside(char **word);
int outside(char **word);

int main(int argc, char **argv) {
  int (*verb)(char **) = outside;
  for (char **word = argv + 1; *word; word++)
    if (!strcmp(*word, "in"))
      verb = inside;
    else if (!strcmp(*word, "out"))
      verb = outside;
    else
      word += verb(word);
  return 0;
}
