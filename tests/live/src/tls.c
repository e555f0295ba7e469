__thread int zero; static __thread int start = 41; __thread int shared_counter = 7;
static int target = 5; __thread int *pointer = &target;
static __thread int *hidden = &target;
__thread char aligned_buffer[64] __attribute__((aligned(64))) = "tls";
int next_start(void){ return ++start; } int *address_of_start(void){return &start;}
int next_zero(void){return ++zero;} int next_shared(void){return ++shared_counter;}
int deref(void){ return *pointer + *hidden; }
int aligned_ok(void){ return ((unsigned long)aligned_buffer & 63)==0 && aligned_buffer[0]=='t'; }
