/* exec FILE with argc == 0: Linux gives such a program one empty argument. */
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
  char *nothing[] = {NULL};
  if (argc == 2) execve(argv[1], nothing, nothing);
  perror("execve");
  return 1;
}
