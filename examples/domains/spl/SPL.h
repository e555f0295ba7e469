/* The processor's interrupt level: everybody may read this file, few may link against it. */
int SPL_High(void);
void SPL_Restore(int level);
