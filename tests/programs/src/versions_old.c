int answer(void) { return 1; }
int only_old(void) { return 10; }
