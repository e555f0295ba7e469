/* A library that says which one it is. */
int answer(void) { return ANSWER; }
