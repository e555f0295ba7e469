#include <stdio.h>
int harmless(void), harmful(void);
int main(int argc, char **argv) {
  (void)argv;
  printf("harmless %d\n", harmless());
  fflush(stdout);
  return argc > 1 ? harmful() : 0;
}
