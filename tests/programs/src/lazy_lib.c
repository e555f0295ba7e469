/* Needs a function that nobody defines; lazy binding looks it up at the first call only. */
int nobody_defines_this(void);
int harmless(void) { return 3; }
int harmful(void) { return nobody_defines_this(); }
