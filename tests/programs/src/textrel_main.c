#include <stdio.h>
#include <unistd.h>
int text_value(void), text_call(void);
int main(void) {
  printf("text relocation %d, call %d\n", text_value(), text_call() == getppid());
  return 0;
}
