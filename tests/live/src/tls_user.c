extern __thread int shared_counter; extern __thread int *pointer;
int other_shared(void){ return ++shared_counter; } int other_deref(void){return *pointer;}
