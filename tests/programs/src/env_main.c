#include <stdio.h>
extern char **environ;
int main(int argc, char **argv) {
  int count = 0;
  while (environ && environ[count]) count++;
  printf("argc %d, argv[0] %s\n", argc, argv[0] ? argv[0] : "(null)");
  printf("variables %d\n", count);
  return 0;
}
