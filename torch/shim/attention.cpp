// Self-attention on the product of one matrix for queries, keys and values.
//
// Libtorch's kernels take the three as they lie in it. Their gradients autograd would put together
// with a concatenation and a copy; here they are written where they belong, by one kernel or by
// three copies.
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cpu.h"

namespace dt {

namespace {

using Parts = std::array<at::Tensor, 3>;

// The queries, keys and values in qkv [N, T, 3 heads d]: views [N, heads, T, d].
Parts parts_of(const at::Tensor &qkv, int64_t heads) {
  const int64_t n = qkv.size(0), t = qkv.size(1), d = qkv.size(2) / 3 / heads;
  const auto parts = qkv.reshape({n, t, 3, heads, d}).permute({2, 0, 3, 1, 4}).unbind(0);
  return {parts[0], parts[1], parts[2]};
}

// [N, heads, T, d] to [N, T, heads d], and back.
at::Tensor merged(const at::Tensor &y) {
  return y.transpose(1, 2).reshape({y.size(0), y.size(2), y.size(1) * y.size(3)});
}
at::Tensor heads_of(const at::Tensor &y, int64_t heads) {
  return y.reshape({y.size(0), y.size(1), heads, y.size(2) / heads}).transpose(1, 2);
}

at::Tensor composition(const at::Tensor &qkv, int64_t heads,
                       const std::optional<at::Tensor> &mask) {
  const auto [q, k, v] = parts_of(qkv, heads);
  return merged(at::scaled_dot_product_attention(q, k, v, mask));
}

// Whether PackedAttention has that backend.
bool takes(at::SDPBackend backend, const at::Tensor &q) {
  switch (backend) {
    case at::SDPBackend::flash_attention:  // on CUDA libtorch pads other sizes
      return q.numel() > 0 && (q.is_cpu() || (q.is_cuda() && q.size(3) % 8 == 0));
    case at::SDPBackend::efficient_attention:
    case at::SDPBackend::cudnn_attention: return q.numel() > 0 && q.is_cuda();
    default: return false;
  }
}

// The gradient of qkv, by a kernel where there is one.
at::Tensor pack(const dt_plugin *kernels, const Parts &grads) {
  const auto &first = grads[0];
  const int64_t n = first.size(0), heads = first.size(1), t = first.size(2), d = first.size(3);
  auto all = at::empty({n, t, 3, heads, d}, first.options());
  const int64_t bytes = first.element_size();
  bool alike = bytes == 2 || bytes == 4;
  for (const auto &g : grads) alike = alike && g.strides() == first.strides() && g.stride(3) == 1;
  if (kernels && alike) {
    const dt_pack_qkv_args a{n,
                             t,
                             static_cast<int32_t>(heads),
                             static_cast<int32_t>(d),
                             grads[0].const_data_ptr(),
                             grads[1].const_data_ptr(),
                             grads[2].const_data_ptr(),
                             first.stride(0),
                             first.stride(1),
                             first.stride(2),
                             all.mutable_data_ptr()};
    queue_kernels(all.device(),
                  [&](void *stream) { return kernels->pack_qkv(bytes == 2, &a, stream); });
  } else {
    for (int64_t i = 0; i < 3; i++) all.select(2, i).copy_(grads[i].transpose(1, 2));
  }
  return all.view({n, t, 3 * heads * d});
}

void prove_pack(const dt_plugin &table, const at::Device &d) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    Parts parts;
    for (uint64_t i = 0; i < 3; i++) parts[i] = random({2, 33, 3, 24}, type, d, i).transpose(1, 2);
    TORCH_CHECK(pack(&table, parts).equal(pack(nullptr, parts)), type, " differs");
  }
}

Kernel pack_kernel("pack_qkv", prove_pack);

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &qkv,
                            int64_t heads, at::SDPBackend backend, const dt_plugin *kernels) {
    const auto [q, k, v] = parts_of(qkv, heads);
    at::Tensor y, logsumexp, cum_q, cum_k, seed, offset;  // what the backward pass takes
    c10::SymInt max_q, max_k;
    if (q.is_cpu()) {
      std::tie(y, logsumexp) = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v);
    } else if (backend == at::SDPBackend::flash_attention) {
      std::tie(y, logsumexp, cum_q, cum_k, max_q, max_k, seed, offset, std::ignore) =
          at::_scaled_dot_product_flash_attention(q, k, v);
    } else if (backend == at::SDPBackend::cudnn_attention) {
      std::tie(y, logsumexp, cum_q, cum_k, max_q, max_k, seed, offset, std::ignore) =
          at::_scaled_dot_product_cudnn_attention(q, k, v, {}, /*compute_log_sumexp=*/true);
    } else {
      std::tie(y, logsumexp, seed, offset) =
          at::_scaled_dot_product_efficient_attention(q, k, v, {}, /*compute_log_sumexp=*/true);
    }
    ctx->save_for_backward({qkv, y, logsumexp, cum_q, cum_k, seed, offset});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["backend"] = static_cast<int64_t>(backend);
    ctx->saved_data["max_q"] = max_q.expect_int();
    ctx->saved_data["max_k"] = max_k.expect_int();
    ctx->saved_data["kernels"] = reinterpret_cast<int64_t>(kernels);
    return merged(y);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *ctx,
                                                 const torch::autograd::variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &qkv = saved[0], &y = saved[1], &logsumexp = saved[2], &cum_q = saved[3],
               &cum_k = saved[4], &seed = saved[5], &offset = saved[6];
    const int64_t heads = ctx->saved_data["heads"].toInt();
    const auto backend = static_cast<at::SDPBackend>(ctx->saved_data["backend"].toInt());
    const int64_t max_q = ctx->saved_data["max_q"].toInt(),
                  max_k = ctx->saved_data["max_k"].toInt();
    const auto [q, k, v] = parts_of(qkv, heads);
    const auto dy = heads_of(grads[0], heads);
    Parts d;
    if (q.is_cpu()) {
      std::tie(d[0], d[1], d[2]) = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          dy, q, k, v, y, logsumexp, /*dropout_p=*/0, /*is_causal=*/false);
    } else if (backend == at::SDPBackend::flash_attention) {
      std::tie(d[0], d[1], d[2]) = at::_scaled_dot_product_flash_attention_backward(
          dy, q, k, v, y, logsumexp, cum_q, cum_k, max_q, max_k, /*dropout_p=*/0,
          /*is_causal=*/false, seed, offset);
    } else if (backend == at::SDPBackend::cudnn_attention) {
      std::tie(d[0], d[1], d[2]) = at::_scaled_dot_product_cudnn_attention_backward(
          dy, q, k, v, y, logsumexp, seed, offset, /*attn_bias=*/{}, cum_q, cum_k, max_q, max_k,
          /*dropout_p=*/0, /*is_causal=*/false);
    } else {
      std::tie(d[0], d[1], d[2], std::ignore) =
          at::_scaled_dot_product_efficient_attention_backward(
              dy, q, k, v, /*attn_bias=*/{}, y, logsumexp, seed, offset, /*dropout_p=*/0,
              {true, true, true, false});
    }
    const auto *kernels = reinterpret_cast<const dt_plugin *>(ctx->saved_data["kernels"].toInt());
    return {pack(kernels, d), {}, {}, {}};
  }
};

}  // namespace

at::Tensor packed_attention(const at::Tensor &qkv, int64_t heads,
                            const std::optional<at::Tensor> &mask) {
  RECORD_FUNCTION("packed_attention", kNoInputs);
  TORCH_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (3 * heads) == 0,
              "packed_attention: want qkv [N, T, 3 heads d] for ", heads, " heads, got shape ",
              qkv.sizes());
  if (!mask && !kernels(qkv.device()) && cpu::fusible(qkv))
    return cpu::packed_attention(qkv, heads);
  const bool gradients = c10::GradMode::is_enabled() && qkv.requires_grad();
  if (mask || !gradients || !fused())
    return composition(qkv, heads, mask);  // which copies nothing in the forward pass
  // Libtorch's choice is the fastest one that was measured on an H200, at a head size of 72 too
  // (cuDNN), and one that repeats itself to the bit where that is asked for.
  const auto [q, k, v] = parts_of(qkv, heads);
  const auto backend = static_cast<at::SDPBackend>(at::_fused_sdp_choice(q, k, v));
  if (!takes(backend, q)) return composition(qkv, heads, mask);
  return PackedAttention::apply(qkv, heads, backend, pack_kernel.on(qkv.device()));
}

}  // namespace dt
