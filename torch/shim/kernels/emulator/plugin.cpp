// The table of libditcuda.so with kernels that the emulator runs on the CPU: the library
// libditemulator.so, which tests open in place of it, and a part of shim_asan_test.
#include <torch/version.h>

#include "../plugin.cu"

extern "C" {

__attribute__((visibility("default"))) dt_plugin_version_function dt_plugin_version;
int32_t dt_plugin_version(void) { return DT_PLUGIN_VERSION; }

__attribute__((visibility("default"))) dt_plugin_fill_function dt_plugin_fill;
void dt_plugin_fill(dt_plugin *out) {
  *out = dt_plugin{};
  out->libtorch = TORCH_VERSION;
  out->emulated = 1;
  dt_plugin_fill_kernels(out);
}

}  // extern "C"
