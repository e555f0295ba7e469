/* For all extensions. */
int Console_Write(const char *text);
