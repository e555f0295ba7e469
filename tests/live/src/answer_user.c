/* Asks libanswer, and notes that its constructor ran. */
int answer(void);
int begun;
__attribute__((constructor)) static void begin(void) { begun += answer(); }
int ask(void) { return answer(); }
