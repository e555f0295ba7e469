/* For privileged ones: Console.GetPrivateInterface gives it. */
void ConsolePrivate_Clear(void);
int ConsolePrivate_Written(void);
