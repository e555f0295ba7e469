#include "cxx.h"

#include <cstdio>

namespace {
struct Square : Shape {
  const char *name() const override { return "square"; }
};
struct Guard {
  int code;
  ~Guard() { std::printf("unwound %d\n", code); }
};
struct Announcer {
  Announcer() { std::puts("user library constructed"); }
  ~Announcer() { std::puts("user library destroyed"); }
} announcer;
}  // namespace

Shape *make_square() { return new Square; }

/* An exception passes through this library's frames on its way from another one. */
void call_through(void (*function)(int), int code) {
  Guard guard{code};
  function(code);
}

bool library_sees_round(Shape *shape) { return dynamic_cast<Round *>(shape) != nullptr; }
int bump_registry() { return ++Registry<Shape>::count; }
