#include "cxx.h"

struct Oval : Round {
  const char *name() const override { return "oval"; }
};

extern "C" void plugin_throw(int code) { throw Special("from a plug-in", code); }
extern "C" Shape *plugin_shape() { return new Oval; }
extern "C" int plugin_bump() { return ++Registry<Shape>::count; }
