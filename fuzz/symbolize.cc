// The fuzzing runtime asks a sanitizer for the names of places, and there is none: it is told the places themselves.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>

extern "C" void __sanitizer_symbolize_pc(void *place, const char *, char *text, size_t length) {
  Dl_info info;
  memset(&info, 0, sizeof info);
  dladdr(place, &info);
  snprintf(text, length, "%#zx", reinterpret_cast<uintptr_t>(place) - reinterpret_cast<uintptr_t>(info.dli_fbase));
}

// It asks for this as well before it prints what was reached, and does without an answer.
extern "C" int __sanitizer_get_module_and_offset_for_pc(void *, char *, size_t, void **) { return 0; }
