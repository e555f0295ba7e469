/* The linker, for extensions that were given it.  A Domain_T is valid for whom it was given to. */
typedef unsigned long Domain_T; /* 0 is none */

Domain_T Domain_CreateFromInterface(const char *header);
int Domain_Resolve(Domain_T source, Domain_T target);
int Domain_Unresolve(Domain_T source, Domain_T target);
Domain_T Domain_Combine(Domain_T first, Domain_T second);
int Domain_Initialize(Domain_T domain);
Domain_T NameServer_Query(const char *name);
int NameServer_Register(const char *name, Domain_T domain);
const char *Domain_Error(void); /* why the last one of this thread failed */
