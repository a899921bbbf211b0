/* The C face of libtorch for package torch. Pure C11.
 *
 * Every function that can fail returns a dt_error, NULL on success; outputs are written only on
 * success. No function but dt_graph_begin, dt_profile_start and dt_aside_begin keeps thread-local
 * state, a Go pointer or a callback past its return, and none prints. dt_mode travels into each
 * call, and nothing that it switches on outlives the call. Calls in modes that differ in more than
 * DT_MODE_GRAD wait for each other. */
#ifndef DITRUN_DT_H
#define DITRUN_DT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DT_API __attribute__((visibility("default")))
#define DT_ABI 10

typedef struct dt_tensor_s *dt_tensor;
typedef struct dt_generator_s *dt_generator;
typedef struct dt_adamw_s *dt_adamw;
typedef struct dt_feed_s *dt_feed;
typedef struct dt_pace_s *dt_pace;
typedef struct dt_readback_s *dt_readback;
typedef struct dt_store_s *dt_store;
typedef struct dt_group_s *dt_group;
typedef struct dt_graph_s *dt_graph;
typedef struct dt_aside_s *dt_aside;

/* How a call computes: a set of the bits below. */
typedef uint32_t dt_mode;

enum {
  DT_MODE_GRAD = 1, /* operations are recorded for autograd */
  DT_MODE_TF32 = 2, /* float32 products and convolutions on a GPU round their inputs to TF32 */
  /* operations without a deterministic form fail, cuDNN chooses deterministic algorithms */
  DT_MODE_DETERMINISTIC = 4,
  /* what would read something back to the host, such as indices to check their range, fails */
  DT_MODE_CAPTURE = 8,
  /* the switches that libtorch keeps for the whole process */
  DT_MODE_SWITCHES = DT_MODE_TF32 | DT_MODE_DETERMINISTIC
};

enum { DT_ERR_OTHER = 1, DT_ERR_SHAPE = 2, DT_ERR_OOM = 3, DT_ERR_CUDA = 4 };

typedef struct {
  int32_t code;
  char *msg;
} dt_error;

enum {
  DT_FLOAT32 = 0,
  DT_FLOAT64 = 1,
  DT_FLOAT16 = 2,
  DT_BFLOAT16 = 3,
  DT_INT64 = 4,
  DT_INT32 = 5,
  DT_UINT8 = 6,
  DT_BOOL = 7
};

/* A device: -1 is the CPU, i >= 0 is GPU i. */
typedef int32_t dt_device;

enum { DT_MAX_RANK = 8 };

/* A new tensor together with what the caller wants to know of it. */
typedef struct {
  dt_tensor t;
  int64_t shape[DT_MAX_RANK];
  int32_t rank, dtype;
  dt_device device;
} dt_out;

/* Library */
DT_API int32_t dt_abi_version(void);
DT_API const char *dt_build_info(void);
DT_API const char *dt_init(void);
DT_API int32_t dt_cuda_count(void);
/* dt_cuda_name writes a name of less than size bytes, "" where the driver does not say. */
DT_API void dt_cuda_name(int32_t i, char *name, int32_t size);
/* The most bytes that tensors on a GPU have taken at once, since dt_reset_peak_memory or in this
 * process; 0 where that is not known, and on the CPU. */
DT_API int64_t dt_peak_memory(dt_device dev);
DT_API void dt_reset_peak_memory(dt_device dev);
/* The bytes of a GPU; 0 for the CPU, and before the GPU is used. */
DT_API int64_t dt_total_memory(dt_device dev);
DT_API void dt_error_free(dt_error *e);
DT_API int64_t dt_live_tensors(void);
/* How often, in this process, something was copied from the host to a device, copied back, and
 * waited for. The CPU counts as if it were a device. */
typedef struct {
  int64_t uploads, read_backs, waits;
} dt_traffic;
DT_API dt_traffic dt_counts(void);
DT_API void dt_init_thread(void);
DT_API void dt_set_num_threads(int32_t n);
DT_API int32_t dt_num_threads(void);
/* The mode as libtorch has it within a call in mode m, for tests. */
DT_API dt_error *dt_mode_within(dt_mode m, dt_mode *out_m);
/* Which kernels attention over q, k and v takes: a number of at::SDPBackend. */
DT_API dt_error *dt_attention_choice(dt_mode m, dt_tensor q, dt_tensor k, dt_tensor v,
                                     int32_t *out_choice);
/* How products are computed on GPUs: a line for each that was timed, or that dt_set_product_choices
 * gave. The text is freed with free(). Products are timed from dt_set_product_choices on; before,
 * each takes the first algorithm that is proposed. */
DT_API dt_error *dt_product_choices(char **out_text);
DT_API dt_error *dt_set_product_choices(const char *text);
DT_API dt_error *dt_synchronize(dt_device dev);
/* Whether operations that PyTorch spells as several may be one pass, by kernels of libditcuda.so or
 * loops of the CPU, as they do by default. Of the whole process; not to be changed during a call.
 */
DT_API void dt_set_fused(int32_t on);
DT_API int32_t dt_fused(void);
/* The oldest warning that was not taken yet, such as of a kernel that is wrong on some GPU; NULL
 * where there is none. It is freed with free(). */
DT_API char *dt_take_warning(void);
/* libtorch's profiler, of this thread and of all kernels of a GPU. It is on until dt_profile_stop,
 * which is called on the same thread. Its text has a line for each kernel, or operation on the CPU:
 * calls, nanoseconds, name. It is freed with free(). */
DT_API dt_error *dt_profile_start(dt_device dev);
DT_API dt_error *dt_profile_stop(dt_device dev, char **out_text);

/* Tensors */
DT_API void dt_free_many(dt_tensor *ts, int64_t n);
DT_API dt_error *dt_from_host(const void *data, int64_t nbytes, int32_t dtype, dt_device dev,
                              const int64_t *dims, int32_t ndims, dt_out *out);
DT_API dt_error *dt_to_host(dt_tensor t, void *dst, int64_t nbytes);
DT_API dt_error *dt_copy_from_host(dt_tensor t, const void *src, int64_t nbytes);
/* The memory of a contiguous CPU tensor; NULL for others. Not valid after the tensor. To fill it is
 * an upload. */
DT_API dt_error *dt_host_bytes(dt_tensor t, int32_t fill, void **out_p);
/* Where the elements begin, in the memory of the tensor's device. */
DT_API uint64_t dt_address(dt_tensor t);
DT_API dt_error *dt_to_device(dt_mode m, dt_tensor t, dt_device dev, dt_out *out);
DT_API dt_error *dt_set_requires_grad(dt_tensor t, int32_t on);
DT_API int32_t dt_requires_grad(dt_tensor t);

/* Autograd */
DT_API dt_error *dt_backward(dt_mode m, dt_tensor loss);
/* What a backward pass from loss would add gradients to: how many tensors, how many of them have
 * one already, and a hash of their addresses; of those in made it has their places there. */
DT_API dt_error *dt_backward_leaves(dt_tensor loss, const dt_tensor *made, int32_t n_made,
                                    int64_t *out_n, int64_t *out_with_grad, uint64_t *out_hash);
DT_API dt_error *dt_grad(dt_tensor t, dt_out *out);
DT_API dt_error *dt_clear_grad(dt_tensor t);

/* Graphs, on a GPU. They need libditcuda.so, which dt_plugin_open opens. It returns why that cannot
 * be used, "" where it can; the text stays until the next call. libtorch_cuda.so must be loaded. */
DT_API const char *dt_plugin_open(const char *path);
/* Fails where its kernels cannot be started on dev, and says why. */
DT_API dt_error *dt_plugin_check_kernels(dt_device dev);
/* What this thread computes on dev from dt_graph_begin to dt_graph_end is captured, not computed,
 * and its tensors are in memory of the graph's own. In between, another stream is this thread's
 * current one. dt_graph_begin first gives memory that no tensor is in back to CUDA. */
DT_API dt_error *dt_graph_begin(dt_device dev, dt_graph *out);
DT_API dt_error *dt_graph_end(dt_graph g);
DT_API dt_error *dt_graph_replay(dt_graph g);
/* Without dt_graph_end before, on the same thread, it gives the capture up. */
DT_API void dt_graph_free(dt_graph g);

/* What this thread computes on dev from dt_aside_begin to dt_aside_end goes to another stream,
 * beside the work of other threads; dt_aside_end is called on the same thread. What comes after
 * dt_aside_begin, or dt_aside_follow, waits for all that the stream before had got until then. On
 * the CPU they do nothing. */
DT_API dt_error *dt_aside_begin(dt_device dev, dt_aside *out);
DT_API dt_error *dt_aside_follow(dt_aside a);
DT_API void dt_aside_end(dt_aside a);

/* Random numbers: libtorch's own generator, and the counter-based one of package philox. */
DT_API dt_error *dt_generator_new(dt_device dev, uint64_t seed, dt_generator *out);
DT_API void dt_generator_free(dt_generator g);
DT_API dt_error *dt_philox_normal(dt_mode m, uint64_t seed, uint32_t tag, dt_tensor step,
                                  dt_tensor indices, const int64_t *row_dims, int32_t nrow_dims,
                                  dt_out *out);
DT_API dt_error *dt_philox_uniform(dt_mode m, uint64_t seed, uint32_t tag, dt_tensor step,
                                   dt_tensor indices, dt_out *out);

/* A feed carries nbytes a step to a device in one copy. dt_feed_bytes gives the host memory to fill
 * before each dt_feed_send; what lies there holds anything. It waits where the copy of two sends
 * before is not done. The tensors are views, from an offset in bytes on, of memory on the device
 * that stays where it is; they may outlive the feed. */
DT_API dt_error *dt_feed_new(dt_device dev, int64_t nbytes, dt_feed *out);
DT_API void dt_feed_free(dt_feed f);
DT_API dt_error *dt_feed_tensor(dt_feed f, int64_t offset, int32_t dtype, const int64_t *dims,
                                int32_t ndims, dt_out *out);
DT_API dt_error *dt_feed_bytes(dt_feed f, void **out_p);
DT_API dt_error *dt_feed_send(dt_feed f);
/* dt_pace_step ends a step: it waits until the device has done the one that ended so many steps
 * before. That counts as no wait. On the CPU it does nothing. */
DT_API dt_error *dt_pace_new(dt_device dev, int32_t ahead, dt_pace *out);
DT_API void dt_pace_free(dt_pace p);
DT_API dt_error *dt_pace_step(dt_pace p);
/* A readback copies tensors of at most nbytes to the host; two may be on their way.
 * dt_readback_wait gives the bytes of the one that was started first; they stay until the next
 * start. dt_readback_free waits for what is on its way. */
DT_API dt_error *dt_readback_new(dt_device dev, int64_t nbytes, dt_readback *out);
DT_API void dt_readback_free(dt_readback r);
DT_API dt_error *dt_readback_start(dt_readback r, dt_tensor t);
DT_API dt_error *dt_readback_wait(dt_readback r, const void **out_p, int64_t *out_nbytes);

/* AdamW with gradient clipping and an exponential moving average over flat buffers. */
typedef struct {
  double beta1, beta2, eps, weight_decay;
} dt_adamw_config;

typedef struct {
  dt_tensor lr, ema_decay; /* of one float64 on the device; ema_decay NULL: the average stays */
  double max_norm;
  dt_tensor skip; /* may be NULL */
} dt_adamw_options;

enum {
  DT_ADAMW_EMA = 0,
  DT_ADAMW_EXP_AVG = 1,
  DT_ADAMW_EXP_AVG_SQ = 2,
  DT_ADAMW_STEP = 3,
  DT_ADAMW_WEIGHTS = 4
};

/* Parameter i begins at offsets[i] in the flat buffer, in elements. The parameters that require
 * gradients fill the buckets, which follow one another; the others come after them, up to total.
 * Where group is not NULL its ranks train together, each on a share of every bucket unless plain is
 * set. The group must outlive the optimizer's use. */
DT_API dt_error *dt_adamw_new(const dt_tensor *params, int32_t n, const int64_t *offsets,
                              const int64_t *buckets, int32_t n_buckets, int64_t total,
                              dt_adamw_config cfg, dt_group group, int32_t plain, dt_adamw *out);
DT_API void dt_adamw_free(dt_adamw o);
/* The ranks of a group sum each bucket of gradients as soon as the backward pass that follows has
 * filled it. Without this call they begin in the step. */
DT_API dt_error *dt_adamw_last_backward(dt_adamw o);
/* The positions of trained parameters that have no gradient, which prevent the step of a group;
 * there is room for all. */
DT_API dt_error *dt_adamw_missing(dt_adamw o, int32_t *positions, int32_t *n);
/* Two results: the norm before clipping, and 1 where the step was skipped. */
DT_API dt_error *dt_adamw_step(dt_adamw o, const dt_adamw_options *options, dt_out *out);
/* Copies the trained weights, for dt_adamw_change after the step. */
DT_API dt_error *dt_adamw_watch(dt_adamw o);
/* The norm of what became of the weights since dt_adamw_watch, whose copy it frees. In a group all
 * ranks call it. */
DT_API dt_error *dt_adamw_change(dt_adamw o, dt_out *out);
/* The trained parameter at a position as BFloat16: a tensor of its own that requires gradients, of
 * which there is one, equal to the parameter after each step. Its gradient is one of the parameter.
 * A group has none. */
DT_API dt_error *dt_adamw_copy(dt_adamw o, int32_t position, dt_out *out);
/* Makes them equal to the parameters again, which something else than a step has changed. */
DT_API dt_error *dt_adamw_renew(dt_adamw o);
/* Lets dt_grad see the gradients since the last step as those of the parameters, in a group and of
 * copies, until dt_adamw_zero_grad. */
DT_API dt_error *dt_adamw_expose_grad(dt_adamw o);
DT_API dt_error *dt_adamw_zero_grad(dt_adamw o);
/* The buffer itself. */
DT_API dt_error *dt_adamw_buffer(dt_adamw o, int32_t which, dt_out *out);
/* The averages of all parameters, in the order of the flat buffer: gathered from the ranks that
 * hold shares, or the buffer itself where this process holds all. */
DT_API dt_error *dt_adamw_averages(dt_adamw o, dt_out *out);
/* Five copies: step count, this rank's moments, weights and averages of all parameters (on ranks
 * above 0 no tensors), in host memory that the next call writes to again. */
DT_API dt_error *dt_adamw_snapshot(dt_adamw o, dt_out *out);

/* Process groups. A store keeps small values by name for all processes of a run. Rank 0 serves it,
 * or the agent that started the ranks. Calls on one connection run one after the other. */
enum { DT_SUM = 0, DT_MIN = 1, DT_MAX = 2 };

/* With serve this process keeps the store. It listens on every network, or takes over the socket
 * listen_fd where that is not -1, which must be listening on this port already. */
DT_API dt_error *dt_store_new(const char *host, int32_t port, int32_t serve, int32_t listen_fd,
                              const char *prefix, int64_t timeout_ms, dt_store *out);
DT_API void dt_store_free(dt_store s);
DT_API dt_error *dt_store_set(dt_store s, const char *key, const void *data, int64_t nbytes);
/* Waits for the key as long as the store's time-out. The bytes are freed with free(). */
DT_API dt_error *dt_store_get(dt_store s, const char *key, void **out_data, int64_t *out_nbytes);
DT_API dt_error *dt_store_add(dt_store s, const char *key, int64_t delta, int64_t *out_sum);
/* Whether all the keys are there; it does not wait. */
DT_API dt_error *dt_store_check(dt_store s, const char *const *keys, int32_t n,
                                int32_t *out_present);
DT_API dt_error *dt_store_delete(dt_store s, const char *key, int32_t *out_deleted);

/* Gloo listens on the network interfaces named, separated by commas, or, where the list is empty,
 * on the address of host. */
DT_API dt_error *dt_group_new_gloo(dt_store s, int32_t rank, int32_t size, const char *interfaces,
                                   const char *host, int64_t timeout_ms, dt_group *out);
/* NCCL, for tensors on a GPU. Its version is 10000 major + 100 minor + patch. One rank makes an id,
 * of DT_NCCL_ID bytes, and all open the group with it, each on a GPU of its own. That waits for
 * all of them, without limit. */
enum { DT_NCCL_ID = 128 };

DT_API dt_error *dt_nccl_version(int32_t *out_version);
DT_API dt_error *dt_nccl_id(char *out_id);
DT_API dt_error *dt_group_new_nccl(int32_t rank, int32_t size, dt_device dev, const char *id,
                                   int64_t timeout_ms, dt_group *out);
/* The address of a GPU on its machine's bus, such as 0000:17:00.0, in n bytes with the final 0. */
DT_API dt_error *dt_gpu_address(dt_device dev, char *out, int32_t n);
DT_API void dt_group_free(dt_group g);
DT_API dt_error *dt_group_all_reduce(dt_group g, dt_tensor t, int32_t op);
DT_API dt_error *dt_group_reduce_scatter(dt_group g, dt_tensor out, dt_tensor in);
DT_API dt_error *dt_group_all_gather(dt_group g, dt_tensor out, dt_tensor in);
DT_API dt_error *dt_group_broadcast(dt_group g, dt_tensor t, int32_t root);
DT_API dt_error *dt_group_barrier(dt_group g, int64_t timeout_ms);
DT_API dt_error *dt_group_abort(dt_group g);
/* Whether a collective has failed, also one inside another operation. */
DT_API int32_t dt_group_failed(dt_group g);
/* Fails where one on a GPU has, even after it was waited for. */
DT_API dt_error *dt_group_check(dt_group g);

#include "gen_ops.h"

#ifdef __cplusplus
}
#endif
#endif
