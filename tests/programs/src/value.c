/* The smallest library: value() tells which copy was found. */
#ifdef VALUE
int value(void) { return VALUE; }
#endif
#ifdef ALSO_CALLS
int ALSO_CALLS(void);
int through(void) { return ALSO_CALLS(); }
#endif
