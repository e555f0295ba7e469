/* One thread-local block; the build picks the access model and PREFIX. */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(PREFIX, x)

__thread int NAME(_value) = START;
static __thread int hidden = START + 1, hidden_too = START + 2;
static __thread char zeroed[100];
static __thread long aligned __attribute__((aligned(128))) = START;

int *NAME(_address)(void) { return &NAME(_value); }

int NAME(_sum)(void) {
  hidden++;
  hidden_too += 2;
  zeroed[99]++;
  return NAME(_value) + hidden + hidden_too + zeroed[99] + (int)aligned;
}

int NAME(_is_aligned)(void) { return (unsigned long)&aligned % 128 == 0; }
