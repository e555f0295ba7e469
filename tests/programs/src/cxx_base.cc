#include "cxx.h"

#include <cstdio>

Shape::~Shape() {}
const char *Round::name() const { return "round"; }
const char *Circle::name() const { return "circle"; }
Failure::Failure(const std::string &what, int code) : std::runtime_error(what), code(code) {}
Failure::~Failure() {}

Shape *make_circle() { return new Circle; }
void throw_special(int code) { throw Special("from the base library", code); }

namespace {
struct Announcer {
  Announcer() { std::puts("base library constructed"); }
  ~Announcer() { std::puts("base library destroyed"); }
} announcer;
}  // namespace
