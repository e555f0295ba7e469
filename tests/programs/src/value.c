/* The smallest library: value() tells which copy was found. */
int value(void) { return VALUE; }
#ifdef ALSO_CALLS
int ALSO_CALLS(void);
int through(void) { return ALSO_CALLS(); }
#endif
