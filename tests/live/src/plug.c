/* What others open: it asks whoever gives an answer. */
int answer(void);
int common(void) { return NUMBER; }
int sees(void) { return common(); }
int plug(void) { return 40 + answer(); }
