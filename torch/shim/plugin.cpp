// Opens libditcuda.so, and the calls of dt.h that it serves.
#include "plugin.h"

#include <dlfcn.h>
#include <torch/version.h>
#include <unistd.h>

#include "core.h"

namespace dt {

namespace {

dt_plugin functions{};
bool opened = false;
std::string plugin_why = "not opened";  // "" where it is in use

// open_plugin returns why the library cannot be used, "" where it can.
std::string open_plugin(const char *path, dt_plugin *out) {
  if (::access(path, F_OK)) return c10::str(path, " is not there");
  void *lib = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib) return ::dlerror();
  const auto version =
      reinterpret_cast<dt_plugin_version_function *>(::dlsym(lib, "dt_plugin_version"));
  if (!version) return c10::str(path, " has no function dt_plugin_version");
  if (version() != DT_PLUGIN_VERSION)
    return c10::str(path, " is of version ", version(), ", this shim wants version ",
                    DT_PLUGIN_VERSION);
  const auto fill = reinterpret_cast<dt_plugin_fill_function *>(::dlsym(lib, "dt_plugin_fill"));
  if (!fill) return c10::str(path, " has no function dt_plugin_fill");
  fill(out);
  if (std::strcmp(out->libtorch, TORCH_VERSION))
    return c10::str(path, " is for libtorch ", out->libtorch, ", this shim for ", TORCH_VERSION);
  return "";
}

void done(char *why) {
  if (!why) return;
  const std::string text(why);
  std::free(why);
  TORCH_CHECK(false, text);
}

const dt_plugin &in_use() {
  TORCH_CHECK(opened, "graphs need libditcuda.so: ", plugin_why);
  return functions;
}

}  // namespace

const dt_plugin *plugin() { return opened ? &functions : nullptr; }

}  // namespace dt

using dt::guard;

extern "C" {

const char *dt_plugin_open(const char *path) {
  dt::functions = {};
  try {
    dt::plugin_why = dt::open_plugin(path, &dt::functions);
  } catch (const std::exception &e) {
    dt::plugin_why = e.what();
  }
  dt::opened = dt::plugin_why.empty();
  return dt::plugin_why.c_str();
}

int32_t dt_plugin_has_kernels(void) { return dt::opened && dt::functions.normals ? 1 : 0; }

dt_error *dt_graph_begin(dt_device dev, dt_graph *out) {
  return guard([&] { dt::done(dt::in_use().graph_begin(dev, out)); });
}

dt_error *dt_graph_end(dt_graph g) {
  return guard([&] { dt::done(dt::in_use().graph_end(g)); });
}

dt_error *dt_graph_replay(dt_graph g) {
  return guard([&] { dt::done(dt::in_use().graph_replay(g)); });
}

void dt_graph_free(dt_graph g) { dt::functions.graph_free(g); }

}  // extern "C"
