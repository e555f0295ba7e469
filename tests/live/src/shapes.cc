#include "shapes.h"
#include <stdexcept>
#include <cstdlib>
Base::~Base(){} int Base::id(){return 1;} int Derived::id(){return 2;}
Base *make(int v){return new Derived(v);}
void thrower(int v){ if(v==1) throw Derived(7); if(v==2) throw std::runtime_error("x"); std::abort(); }
