struct Base { virtual ~Base(); int value; Base(int v):value(v){} virtual int id(); };
struct Derived : Base { Derived(int v):Base(v){} int id() override; };
Base *make(int); void thrower(int);
