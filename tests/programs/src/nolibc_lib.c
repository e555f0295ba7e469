int library_data = 30;
static int *pointer = &library_data;
int library_value(void) { return *pointer + 3; }
