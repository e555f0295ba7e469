#include "shapes.h"
#include <stdexcept>
#include <string>
template<class T> struct Unique { static int n; static int *at(){ static int local; return &local; } };
template<class T> int Unique<T>::n = 0;
extern "C" int *unique_at(){ return Unique<int>::at(); }
extern "C" int catch_base(){ try { thrower(1);} catch(Base&b){ return b.value + b.id(); } return -1; }
extern "C" int catch_std(){ try { thrower(2);} catch(std::exception&e){ return 10 + (std::string(e.what())=="x"); } return -1; }
extern "C" int cast(){ Base*b=make(3); Derived*d=dynamic_cast<Derived*>(b); int r = d? d->value:-1; delete b; return r; }
extern "C" int within(){ try { throw 5; } catch(int i){return i;} }
struct Local { ~Local(){ ++*unique_at(); } }; 
extern "C" int thread_destructor(){ static thread_local Local l; (void)&l; return *unique_at(); }
