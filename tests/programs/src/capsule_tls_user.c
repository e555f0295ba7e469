/* A library of the program's that uses a capsule's thread-local; the build picks the access model
   and the NAME of its function. */
extern __thread int cap_tls;
int NAME(int more) { return cap_tls += more; }
