template<class T> struct Unique { static int *at(){ static int local; return &local; } };
extern "C" int *unique_at2(){ return Unique<int>::at(); }
