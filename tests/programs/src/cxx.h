/* What two C++ libraries and a program share: their types must be one type at run time. */
#ifndef CXX_H
#define CXX_H
#include <stdexcept>
#include <string>

struct Shape {
  virtual ~Shape();
  virtual const char *name() const = 0;
};
struct Round : virtual Shape {
  const char *name() const override;
};
struct Circle : Round {
  const char *name() const override;
};
struct Failure : std::runtime_error {
  int code;
  Failure(const std::string &what, int code);
  ~Failure() override;
};
struct Special : Failure {
  using Failure::Failure;
};

template <class T> struct Registry {
  static inline int count = 0; /* STB_GNU_UNIQUE: one in the whole process */
};

Shape *make_circle();
Shape *make_square();
void throw_special(int code);
void call_through(void (*function)(int), int code);
bool library_sees_round(Shape *shape);
int bump_registry();
#endif
