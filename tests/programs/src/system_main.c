#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <fnmatch.h>
#include <glob.h>
#include <grp.h>
#include <iconv.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <netdb.h>
#include <pwd.h>
#include <regex.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#include "facts.h"

static void convert(const char *to, const char *from, const char *text) {
  char out[64], *input = (char *)text, *output = out;
  size_t in_left = strlen(text), out_left = sizeof out;
  iconv_t converter = iconv_open(to, from);
  if (converter == (iconv_t)-1) {
    FACT("%s to %s: unknown", from, to);
    return;
  }
  size_t result = iconv(converter, &input, &in_left, &output, &out_left);
  printf("%s to %s: %zd left %zu:", from, to, (ssize_t)result, in_left);
  for (char *byte = out; byte < output; byte++) printf(" %02x", (unsigned char)*byte);
  putchar('\n');
  iconv_close(converter);
}

/* Converters are plug-ins that libc opens (gconv). */
static int converters(int argc, char **argv) {
  (void)argc, (void)argv;
  convert("UTF-16LE", "UTF-8", "h\303\251");
  convert("ISO-8859-15", "UTF-8", "\342\202\254");
  convert("UTF-8", "SHIFT_JIS", "\203e\203X\203g");
  convert("KOI8-R", "UTF-8", "\320\226");
  convert("ASCII//TRANSLIT", "UTF-8", "\303\244");
  convert("NO-SUCH", "UTF-8", "x");
  return 0;
}

static int locales(int argc, char **argv) {
  (void)argc, (void)argv;
  FACT("at start %s, %s", setlocale(LC_ALL, NULL), nl_langinfo(CODESET));
  FACT("C.UTF-8: %s", setlocale(LC_ALL, "C.UTF-8"));
  FACT("codeset %s, MB_CUR_MAX %zu", nl_langinfo(CODESET), MB_CUR_MAX);
  wchar_t wide[8];
  FACT("wide %zu, upper %x", mbstowcs(wide, "\303\251t\303\251", 8), (unsigned)towupper(0xe9));
  FACT("isalpha %d, width %d", iswalpha(0x416) != 0, wcwidth(0x4e00));
  const char *absent = setlocale(LC_ALL, "xx_YY.UTF-8");
  FACT("absent locale %s", absent ? absent : "refused");
  locale_t other = newlocale(LC_ALL_MASK, "C", NULL);
  uselocale(other);
  FACT("per thread %s", nl_langinfo(CODESET));
  return 0;
}

static int accounts(int argc, char **argv) {
  (void)argc, (void)argv;
  struct passwd *user = getpwnam("root");
  FACT("root: %d %s %s", user ? (int)user->pw_uid : -1, user ? user->pw_dir : "-",
       user ? user->pw_shell : "-");
  user = getpwuid(1);
  FACT("uid 1: %s", user ? user->pw_name : "-");
  FACT("nobody here: %d", getpwnam("no-such-user") == NULL);
  struct group *group = getgrgid(0);
  FACT("group 0: %s", group ? group->gr_name : "-");
  int count = 0;
  setpwent();
  while (getpwent()) count++;
  FACT("accounts %d", count);
  return 0;
}

static int hosts(int argc, char **argv) {
  (void)argc, (void)argv;
  struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
  int result = getaddrinfo("localhost", "80", &hints, &list);
  FACT("localhost: %s", result ? gai_strerror(result) : "found");
  char host[256], service[64];
  for (struct addrinfo *entry = result ? NULL : list; entry; entry = entry->ai_next) {
    getnameinfo(entry->ai_addr, entry->ai_addrlen, host, sizeof host, service, sizeof service,
                NI_NUMERICHOST | NI_NUMERICSERV);
    FACT("%s %s", host, service);
  }
  struct servent *http = getservbyname("http", "tcp");
  struct protoent *tcp = getprotobyname("tcp");
  FACT("http %d, tcp %d", http ? http->s_port : -1, tcp ? tcp->p_proto : -1);
  return 0;
}

static int clocks(int argc, char **argv) {
  (void)argc, (void)argv;
  struct timespec now, later;
  struct timeval of_day;
  time_t seconds = time(NULL);
  FACT("time %d", seconds > 1600000000);
  clock_gettime(CLOCK_REALTIME, &now);
  gettimeofday(&of_day, NULL);
  FACT("clocks agree %d", now.tv_sec - seconds < 2 && of_day.tv_sec - seconds < 2);
  clock_gettime(CLOCK_MONOTONIC, &now);
  nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  clock_gettime(CLOCK_MONOTONIC, &later);
  FACT("monotonic %d", later.tv_sec * 1000000000L + later.tv_nsec >
                           now.tv_sec * 1000000000L + now.tv_nsec + 1000000);
  setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
  tzset();
  char text[100];
  strftime(text, sizeof text, "%F %T %Z", localtime(&(time_t){1700000000}));
  FACT("%s", text);
  return 0;
}

/* Functions that libc and libm choose by CPU. */
static int chosen_functions(int argc, char **argv) {
  (void)argc, (void)argv;
  static char source[100000], target[100001];
  for (size_t i = 0; i < sizeof source; i++) source[i] = (char)(i * 7 % 251 + 1);
  for (size_t size = 0; size < sizeof source; size += size / 3 + 1) {
    memset(target, 0, sizeof target);
    memcpy(target, source, size);
    if (memcmp(target, source, size) || strlen(target) < size || strnlen(target, size) != size)
      return FACT("wrong at %zu", size), 1;
    memmove(target + 1, target, size);
    if (memchr(target, 0, size) || memcmp(target + 1, source, size)) return 2;
  }
  FACT("strings right");
  FACT("%s %s", strstr("haystack with needle", "needle"), strrchr("a/b/c", '/'));
  volatile double x = 0.5;
  FACT("%a %a %a %a", sin(x), exp(x), log(x), pow(x, 1.5));
  FACT("%a %a %f", fma(x, x, x), atan2(x, 2 * x), floor(-x));
  FACT("%s %.17g", setlocale(LC_NUMERIC, NULL), strtod("1e-5", NULL));
  return 0;
}

static int patterns(int argc, char **argv) {
  (void)argc, (void)argv;
  regex_t regex;
  regmatch_t match[2];
  regcomp(&regex, "l(in+)k", REG_EXTENDED);
  FACT("regex %d", regexec(&regex, "a linnker", 2, match, 0));
  FACT("at %d", (int)match[1].rm_so);
  FACT("fnmatch %d %d", fnmatch("*.so.?", "libc.so.6", 0), fnmatch("*.a", "libc.so.6", 0));
  glob_t found;
  FACT("glob %d", glob("/etc/pass*d", 0, NULL, &found));
  FACT("found %s", found.gl_pathv[0]);
  FACT("%d %s", isalpha('a') != 0, strerror(2));
  FACT("getopt index %d", optind);
  return 0;
}

BEHAVIOURS({"iconv", converters}, {"locale", locales}, {"accounts", accounts}, {"hosts", hosts},
           {"clocks", clocks}, {"ifuncs", chosen_functions}, {"patterns", patterns})
