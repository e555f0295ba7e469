static volatile unsigned state = 1;

__attribute__((noinline)) static int library_step(int value) {
  return (int)(state = state * 1103515245u + (unsigned)value);
}

int library_work(int rounds) {
  int sum = 0;
  for (int i = 0; i < rounds; i++) sum += library_step(i);
  return sum;
}
