/**
 * The whole surface between JavaScript and the core. Thin on purpose: arguments are checked for type, everything of
 * meaning is checked in TypeScript above and in frame.cpp below, and errors are made into JavaScript errors there.
 */
#include <node_api.h>

#include <cmath>
#include <cstring>
#include <new>

#include "core/cpu_features.h"
#include "core/parallel.h"
#include "core/queue.h"
#include "core/registry.h"
#include "core/scheduling.h"
#include "core/status.h"
#include "file_map.h"

namespace {

using namespace og;

/** What belongs to one environment (the main thread or one worker). attach() makes the queue; its slot table comes with
 * it. */
struct Environment {
  Queue* queue = nullptr;
  int64_t ring_words = 0;
  const double* ring = nullptr;
  napi_ref ring_ref = nullptr, control_ref = nullptr;
  napi_threadsafe_function notify = nullptr;
};

Environment* environment(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return static_cast<Environment*>(data);
}

template <size_t N>
struct Arguments {
  napi_value at[N];
  size_t count = N;
  Arguments(napi_env env, napi_callback_info info) { napi_get_cb_info(env, info, &count, at, nullptr, nullptr); }
};

napi_value refuse(napi_env env, const char* message) {
  napi_throw_type_error(env, "OG_BINDING", message);
  return nullptr;
}

napi_value boolean(napi_env env, bool x) {
  napi_value value;
  napi_get_boolean(env, x, &value);
  return value;
}
napi_value number(napi_env env, double x) {
  napi_value value = nullptr;
  napi_create_double(env, x, &value);
  return value;
}

napi_value text(napi_env env, const char* s) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, s, NAPI_AUTO_LENGTH, &value);
  return value;
}

void set(napi_env env, napi_value object, const char* key, napi_value value) {
  napi_set_named_property(env, object, key, value);
}

bool to_number(napi_env env, napi_value value, double* out) {
  return napi_get_value_double(env, value, out) == napi_ok;
}

/** An integer in [0, 2^53), or false. */
bool to_handle(napi_env env, napi_value value, int64_t* out) {
  double x;
  if (!to_number(env, value, &x) || !(x >= 0 && x < 9007199254740992.) || x != std::floor(x)) return false;
  *out = (int64_t)x;
  return true;
}

bool typed_array(napi_env env, napi_value value, napi_typedarray_type wanted, void** data, size_t* length) {
  bool is = false;
  napi_typedarray_type type;
  napi_value buffer;
  size_t offset;
  if (napi_is_typedarray(env, value, &is) != napi_ok || !is) return false;
  if (napi_get_typedarray_info(env, value, &type, length, data, &buffer, &offset) != napi_ok) return false;
  return type == wanted;
}

void call_notify(napi_env env, napi_value callback, void*, void*) {
  if (!env || !callback) return;
  napi_value receiver;
  if (napi_get_undefined(env, &receiver) == napi_ok) napi_call_function(env, receiver, callback, 0, nullptr, nullptr);
}

void on_reached(void* context) {
  napi_call_threadsafe_function(static_cast<Environment*>(context)->notify, nullptr, napi_tsfn_nonblocking);
}

/** attach(ring: Float64Array, control: Int32Array, onReached: () => void): makes this environment's queue. Once. */
napi_value attach(napi_env env, napi_callback_info info) {
  Arguments<3> args(env, info);
  Environment* self = environment(env);
  void *ring, *control;
  size_t ring_words, control_words;
  napi_valuetype callback_type = napi_undefined;
  if (args.count >= 3) napi_typeof(env, args.at[2], &callback_type);
  if (args.count < 3 || !typed_array(env, args.at[0], napi_float64_array, &ring, &ring_words) ||
      !typed_array(env, args.at[1], napi_int32_array, &control, &control_words) || callback_type != napi_function ||
      ring_words < 1024 || control_words < (size_t)kControlWords)
    return refuse(env, "attach(ring: Float64Array, control: Int32Array, onReached: function)");
  if (self->queue) return refuse(env, "attach was called before");
  napi_create_reference(env, args.at[0], 1, &self->ring_ref);
  napi_create_reference(env, args.at[1], 1, &self->control_ref);
  if (napi_create_threadsafe_function(env, args.at[2], nullptr, text(env, "omnigrad"), 0, 1, nullptr, nullptr, nullptr,
                                      call_notify, &self->notify) != napi_ok)
    return refuse(env, "no thread-safe function could be made");
  napi_unref_threadsafe_function(env, self->notify);
  self->ring = static_cast<const double*>(ring);
  self->ring_words = (int64_t)ring_words;
  prefer_short_slices();
  // The last quarter of the ring is staging space for inline calls; the executor never reads there.
  self->queue = new (std::nothrow)
      Queue(static_cast<double*>(ring), (int64_t)ring_words / 4 * 3, static_cast<int32_t*>(control), on_reached, self);
  if (!self->queue) return refuse(env, "no memory for the queue");
  return nullptr;
}

#define OG_NEED_QUEUE()                 \
  Environment* self = environment(env); \
  if (!self || !self->queue) return refuse(env, "attach has not been called")

napi_value wake(napi_env env, napi_callback_info) {
  OG_NEED_QUEUE();
  self->queue->wake();
  return nullptr;
}

/** runInline(word: number): undefined, or the status; runs the frame that starts at that word of the ring on this
 * thread. */
napi_value run_inline(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  int64_t word;
  if (args.count < 1 || !to_handle(env, args.at[0], &word) || word >= self->ring_words)
    return refuse(env, "runInline(word: number within the ring)");
  const int32_t status = self->queue->run_inline(self->ring + word, self->ring_words - word);
  return status == OG_OK ? nullptr : number(env, status);
}

/** waitFor(sequence: number): blocks until that many frames are done (modulo 2^32). */
napi_value wait_for(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  int32_t sequence;
  if (args.count < 1 || napi_get_value_int32(env, args.at[0], &sequence) != napi_ok)
    return refuse(env, "waitFor(sequence: number)");
  if (!self->queue->wait_for(sequence)) return refuse(env, "waitFor: that many frames were never submitted");
  return nullptr;
}

/** holdOpen(hold: boolean): whether the pending notification keeps the process alive. */
napi_value hold_open(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  bool hold = false;
  if (args.count < 1 || napi_get_value_bool(env, args.at[0], &hold) != napi_ok)
    return refuse(env, "holdOpen(hold: boolean)");
  if (hold)
    napi_ref_threadsafe_function(env, self->notify);
  else
    napi_unref_threadsafe_function(env, self->notify);
  return nullptr;
}

/** register(buffer: ArrayBuffer | Uint8Array): handle, or -1. The caller keeps the buffer alive, attached and
 * unresized. */
napi_value register_memory(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  void* data = nullptr;
  size_t bytes = 0;
  bool is_buffer = false;
  if (args.count >= 1) napi_is_arraybuffer(env, args.at[0], &is_buffer);
  if (is_buffer) {
    if (napi_get_arraybuffer_info(env, args.at[0], &data, &bytes) != napi_ok)
      return refuse(env, "register: not readable");
  } else if (args.count < 1 || !typed_array(env, args.at[0], napi_uint8_array, &data, &bytes)) {
    return refuse(env, "register(buffer: ArrayBuffer | Uint8Array)");
  }
  return number(env, (double)self->queue->slots().add(data, (int64_t)bytes, nullptr));
}

/** release(handle): whether it was in use. No frame that names it may be in flight. */
napi_value release(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  int64_t handle;
  if (args.count < 1 || !to_handle(env, args.at[0], &handle)) return refuse(env, "release(handle: number)");
  napi_value result;
  napi_get_boolean(env, self->queue->slots().remove(handle), &result);
  return result;
}

/** alignment(handle): the block's address modulo 64, so that allocation can start a tensor on a cache line. */
napi_value alignment(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  int64_t handle, bytes;
  void* base;
  if (args.count < 1 || !to_handle(env, args.at[0], &handle) || !self->queue->slots().find(handle, &base, &bytes))
    return refuse(env, "alignment(handle: number)");
  return number(env, (double)(reinterpret_cast<uintptr_t>(base) & 63));
}

/** mapFile(path: string): [handle, bytes], or the reason as a string. */
napi_value map_file_into_slot(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  char path[4096], message[256];
  size_t length = 0;
  if (args.count < 1 || napi_get_value_string_utf8(env, args.at[0], path, sizeof path, &length) != napi_ok ||
      length + 1 >= sizeof path || std::strlen(path) != length)
    return refuse(env, "mapFile(path: string of fewer than 4095 bytes)");
  void* base;
  int64_t bytes;
  if (!map_file(path, &base, &bytes, message)) return text(env, message);
  const int64_t handle = self->queue->slots().add(base, bytes, unmap_file);
  if (handle < 0) {
    unmap_file(base, bytes);
    return text(env, "too many blocks of memory are registered");
  }
  napi_value pair;
  napi_create_array_with_length(env, 2, &pair);
  napi_set_element(env, pair, 0, number(env, (double)handle));
  napi_set_element(env, pair, 1, number(env, (double)bytes));
  return pair;
}

napi_value failure(napi_env env, int32_t code, int32_t sequence, int32_t kernel, const char* message) {
  napi_value object;
  napi_create_object(env, &object);
  set(env, object, "code", number(env, code));
  set(env, object, "sequence", number(env, sequence));
  set(env, object, "kernel", text(env, kernel >= 0 && kernel < kernel_count() ? kernel_info(kernel).name : ""));
  set(env, object, "message", text(env, message));
  return object;
}

/** takeError(ofInline: boolean): what the queue (or the last inline call) failed with, and forgets it; undefined if
 * nothing. */
napi_value take_error(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  OG_NEED_QUEUE();
  bool of_inline = false;
  if (args.count >= 1) napi_get_value_bool(env, args.at[0], &of_inline);
  if (of_inline) return failure(env, 0, 0, -1, last_message());
  QueueError error;
  return self->queue->take_error(&error) ? failure(env, error.code, error.sequence, error.kernel, error.message)
                                         : nullptr;
}

/** configure({threads?, isa?}): sets what is given; returns what is in force. An unavailable isa changes nothing. */
napi_value configure(napi_env env, napi_callback_info info) {
  Arguments<1> args(env, info);
  napi_valuetype type = napi_undefined;
  if (args.count >= 1) napi_typeof(env, args.at[0], &type);
  if (type == napi_object) {
    napi_value value;
    double count;
    char name[32];
    size_t length;
    if (napi_get_named_property(env, args.at[0], "threads", &value) == napi_ok && to_number(env, value, &count) &&
        count >= 1)
      set_threads(count > 256 ? 256 : (int)count);
    if (napi_get_named_property(env, args.at[0], "isa", &value) == napi_ok &&
        napi_get_value_string_utf8(env, value, name, sizeof name, &length) == napi_ok) {
      for (int i = 0; i < kIsaCount; i++)
        if (std::strcmp(name, isa_name((Isa)i)) == 0) set_isa((Isa)i);
    }
  }
  napi_value object, isas, features;
  napi_create_object(env, &object);
  napi_create_array(env, &isas);
  napi_create_array(env, &features);
  uint32_t n = 0, count = 0;
  for (int i = 0; i < kIsaCount; i++)
    if (isa_available((Isa)i)) napi_set_element(env, isas, n++, text(env, isa_name((Isa)i)));
  for (int i = 0; i < kFeatureCount; i++)
    if (cpu_feature((CpuFeature)i))
      napi_set_element(env, features, count++, text(env, cpu_feature_name((CpuFeature)i)));
  set(env, object, "isas", isas);
  set(env, object, "features", features);
  set(env, object, "isa", text(env, isa_name(current_isa())));
  set(env, object, "threads", number(env, threads()));
  set(env, object, "hardwareThreads", number(env, hardware_threads()));
  set(env, object, "abi", number(env, OG_ABI_VERSION));
  return object;
}

/** kernels(): [{name, inputs, outputs, attrs}], indexed as frames name them. */
napi_value kernels(napi_env env, napi_callback_info) {
  napi_value list;
  napi_create_array_with_length(env, (size_t)kernel_count(), &list);
  for (int32_t i = 0; i < kernel_count(); i++) {
    const KernelInfo& kernel = kernel_info(i);
    napi_value entry;
    napi_create_object(env, &entry);
    set(env, entry, "name", text(env, kernel.name));
    set(env, entry, "inputs", number(env, kernel.inputs));
    set(env, entry, "outputs", number(env, kernel.outputs));
    set(env, entry, "attrs", number(env, kernel.attrs));
    set(env, entry, "elementwise", boolean(env, kernel.elementwise));
    napi_set_element(env, list, (uint32_t)i, entry);
  }
  return list;
}

/** shutdown(): skips what is queued and ends the executor. The environment's clean-up does the same if this was not
 * called. */
napi_value shutdown(napi_env env, napi_callback_info) {
  Environment* self = environment(env);
  if (self && self->queue) self->queue->stop();
  return nullptr;
}

void on_environment_exit(void* data) {
  Environment* self = static_cast<Environment*>(data);
  if (self->queue) self->queue->stop();
}

void finalize_environment(napi_env, void* data, void*) {
  Environment* self = static_cast<Environment*>(data);
  delete self->queue;
  delete self;
}

}  // namespace

NAPI_MODULE_INIT() {
  Environment* self = new (std::nothrow) Environment;
  if (!self) return exports;
  napi_set_instance_data(env, self, finalize_environment, nullptr);
  napi_add_env_cleanup_hook(env, on_environment_exit, self);
  const struct {
    const char* name;
    napi_callback function;
  } functions[] = {{"attach", attach},        {"wake", wake},           {"runInline", run_inline},
                   {"waitFor", wait_for},     {"holdOpen", hold_open},  {"register", register_memory},
                   {"release", release},      {"alignment", alignment}, {"mapFile", map_file_into_slot},
                   {"takeError", take_error}, {"configure", configure}, {"kernels", kernels},
                   {"shutdown", shutdown}};
  for (const auto& entry : functions) {
    napi_value function;
    napi_create_function(env, entry.name, NAPI_AUTO_LENGTH, entry.function, nullptr, &function);
    napi_set_named_property(env, exports, entry.name, function);
  }
  return exports;
}
