// What the test programs of the shim share: a check that fails ends the program with its place.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "dt.h"

[[noreturn]] inline void fail_at(const char *file, int line, const std::string &why) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, why.c_str());
  std::exit(1);
}

inline void ok_at(const char *file, int line, dt_error *e) {
  if (e) fail_at(file, line, e->msg);
}

#undef CHECK  // c10 has one too: its headers come before this one
#define CHECK(cond)                                  \
  do {                                               \
    if (!(cond)) fail_at(__FILE__, __LINE__, #cond); \
  } while (0)
#define OK(call) ok_at(__FILE__, __LINE__, call)
