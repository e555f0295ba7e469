#include "cxx.h"

#include <dlfcn.h>

#include <condition_variable>
#include <exception>
#include <future>
#include <iostream>
#include <locale>
#include <memory>
#include <mutex>
#include <random>
#include <regex>
#include <sstream>
#include <thread>
#include <typeinfo>
#include <vector>

#include "facts.h"

static int throw_across(int, char **) {
  try {
    call_through(throw_special, 42);
  } catch (const Failure &failure) {
    FACT("caught %s: %s, %d", typeid(failure).name(), failure.what(), failure.code);
  }
  try {
    call_through([](int code) { throw code; }, 7);
  } catch (int code) {
    FACT("caught %d", code);
  }
  try {
    std::vector<int>().at(3);
  } catch (const std::out_of_range &) {
    FACT("caught out_of_range from libstdc++");
  }
  return 0;
}

static int type_identity(int, char **) {
  std::unique_ptr<Shape> circle(make_circle()), square(make_square());
  FACT("circle is round: %d, square is round: %d", dynamic_cast<Round *>(circle.get()) != nullptr,
       dynamic_cast<Round *>(square.get()) != nullptr);
  FACT("the library agrees: %d %d", library_sees_round(circle.get()),
       library_sees_round(square.get()));
  FACT("typeid equal: %d, name %s", typeid(*circle) == typeid(Circle), typeid(*circle).name());
  FACT("most derived: %d", dynamic_cast<void *>(circle.get()) != nullptr);
  return 0;
}

static int unique_symbols(int, char **) {
  Registry<Shape>::count = 10;
  FACT("library bumps to %d", bump_registry());
  void *plugin = dlopen("libcxx_plugin.so", RTLD_NOW | RTLD_LOCAL);
  if (!plugin) return FACT("%s", dlerror()), 1;
  FACT("plug-in bumps to %d", ((int (*)())dlsym(plugin, "plugin_bump"))());
  FACT("main sees %d", Registry<Shape>::count);
  return 0;
}

static int throw_from_plugin(int, char **) {
  void *plugin = dlopen("libcxx_plugin.so", RTLD_LAZY | RTLD_LOCAL);
  if (!plugin) return FACT("%s", dlerror()), 1;
  auto thrower = (void (*)(int))dlsym(plugin, "plugin_throw");
  try {
    call_through(thrower, 5);
  } catch (const Special &special) {
    FACT("caught special %s, %d", special.what(), special.code);
  }
  std::unique_ptr<Shape> oval(((Shape * (*)()) dlsym(plugin, "plugin_shape"))());
  FACT("plug-in made %s, round: %d", oval->name(), library_sees_round(oval.get()));
  return 0;
}

static int across_threads(int, char **) {
  std::exception_ptr caught;
  std::thread([&] {
    try {
      throw_special(9);
    } catch (...) {
      caught = std::current_exception();
    }
  }).join();
  try {
    std::rethrow_exception(caught);
  } catch (const Failure &failure) {
    FACT("rethrown in main: %d", failure.code);
  }
  auto answer = std::async(std::launch::async, [] { return 6 * 7; });
  FACT("async %d", answer.get());
  auto broken = std::async(std::launch::async, []() -> int { throw Failure("async", 3); });
  try {
    broken.get();
  } catch (const Failure &failure) {
    FACT("from a future: %s %d", failure.what(), failure.code);
  }
  std::once_flag flag;
  int times = 0;
  for (int i = 0; i < 3; i++) std::call_once(flag, [&] { times++; });
  FACT("once: %d", times);
  return 0;
}

struct Local {
  const char *name;
  explicit Local(const char *name) : name(name) { FACT("local %s constructed", name); }
  ~Local() { FACT("local %s destroyed", name); }
};
static thread_local Local first("first"), second("second");

static int thread_local_destructors(int, char **) {
  FACT("main uses %s", first.name);
  std::thread([] { FACT("thread uses %s", second.name); }).join();
  std::atexit([] { FACT("atexit"); });
  FACT("main returns");
  return 0;
}

static int streams_and_locale(int, char **) {
  std::cout << "cout " << 1.5 << ' ' << std::boolalpha << true << std::endl;
  std::ostringstream text;
  text << std::hex << 255;
  FACT("hex %s, locale %s", text.str().c_str(), std::locale().name().c_str());
  FACT("regex %d", std::regex_match("spidl-42", std::regex("[a-z]+-\\d+")));
  std::mt19937 random(7);
  FACT("random %lu", (unsigned long)random());
  std::cerr << "cerr is unbuffered\n";
  return 0;
}

static int uncaught(int, char **) { throw_special(1); return 0; }

static int new_handler(int, char **) {
  try {
    volatile size_t size = (size_t)1 << 62;
    std::unique_ptr<char[]> huge(new char[size]);
    FACT("allocated %d", huge != nullptr);
  } catch (const std::bad_alloc &failure) {
    FACT("%s", failure.what());
  }
  return 0;
}

BEHAVIOURS({"throw-across", throw_across}, {"type-identity", type_identity},
           {"unique", unique_symbols}, {"throw-from-plugin", throw_from_plugin},
           {"across-threads", across_threads},
           {"thread-local-destructors", thread_local_destructors},
           {"streams", streams_and_locale}, {"uncaught", uncaught}, {"bad-alloc", new_handler})
