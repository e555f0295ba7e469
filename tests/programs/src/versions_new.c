/* Two versions of one symbol: @ is hidden and serves old programs, @@ is the default. */
#include <stdio.h>
__asm__(".symver answer_v1, answer@V1");
__asm__(".symver answer_v2, answer@@V2");
__asm__(".symver only_old_v1, only_old@V1");
int answer_v1(void) { return 1; }
int answer_v2(void) { return 2; }
int only_old_v1(void) { return 10; }
int self_check(void) {
  int answer(void);
  return answer();
}
