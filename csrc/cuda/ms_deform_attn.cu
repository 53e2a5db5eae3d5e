// SPDX-License-Identifier: Apache-2.0
// Multi-scale deformable attention: launches of the CUDA kernels, for the schema that ../ms_deform_attn.cpp defines.
// The contents of spatial_shapes and level_start_index are on the device; load_levels in points.cuh checks them.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cub/device/device_radix_sort.cuh>
#include <tuple>

#include "arguments.h"
#include "pull.cuh"

namespace dino_d2 {
namespace {

using torch::stable::accelerator::DeviceGuard;

void check_cuda(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "ms_deform_attn: ", cudaGetErrorString(status));
}

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                  "ms_deform_attn: no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

template <typename T> struct Type {
  using type = T;
};
template <typename Work> void for_type(DType type, const Work& work) {
  switch (type) {
    case DType::f32: return work(Type<float>{});
    case DType::f64: return work(Type<double>{});
    case DType::f16: return work(Type<__half>{});
    case DType::bf16: return work(Type<__nv_bfloat16>{});
  }
}

// Whether 16 bytes may be read at a time: rows and bases are multiples of that.
bool aligned(const Sizes& s, size_t element, std::initializer_list<const void*> bases) {
  bool yes = s.channels * element % 16 == 0;
  for (const void* base : bases) yes = yes && reinterpret_cast<uintptr_t>(base) % 16 == 0;
  return yes;
}

template <typename C> Plan checked_plan(const Sizes& s, int channels_per_lane) {
  STD_TORCH_CHECK(s.tokens < (int64_t{1} << 29), "ms_deform_attn: value has ", s.tokens,
                  " tokens; the CUDA kernels take fewer than 2**29");
  const Plan plan = plan_for<C>(s, channels_per_lane);
  STD_TORCH_CHECK(plan.lanes > 0, "ms_deform_attn: ", s.levels, " levels of ", s.points,
                  " points are more than fit the shared memory of a CUDA block");
  STD_TORCH_CHECK(plan.blocks < (int64_t{1} << 31), "ms_deform_attn: more than 2**31 blocks of queries");
  return plan;
}

template <typename T, int V> void launch_forward(const Arguments& a, Tensor& output) {
  using C = typename compute_of<T>::type;
  const Plan plan = checked_plan<C>(a.sizes, V);
  const ForwardKernel<T> work{a.sizes, a.points, plan, static_cast<const T*>(a.value.const_data_ptr()),
                              static_cast<T*>(output.mutable_data_ptr())};
  const auto kernel = a.points.reference_dim ? forward_kernel<T, V, true> : forward_kernel<T, V, false>;
  kernel<<<static_cast<unsigned>(plan.blocks), plan.threads, plan.shared, current_stream(output)>>>(work);
  check_cuda(cudaGetLastError());
}

Tensor forward_cuda(const Arguments& a) {
  const DeviceGuard guard(a.value.get_device_index());
  const Sizes& s = a.sizes;
  Tensor output = torch::stable::new_empty(a.value, {s.batch, s.queries, s.heads * s.channels});
  if (output.numel() == 0) return output;
  for_type(a.type, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int V = 16 / sizeof(T);
    aligned(s, sizeof(T), {a.value.const_data_ptr(), output.const_data_ptr()}) ? launch_forward<T, V>(a, output)
                                                                               : launch_forward<T, 1>(a, output);
  });
  return output;
}

Tensor new_bytes(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

// grad_value image after image, without atomics; see pull.cuh.
template <typename T, int V> void pull_grad_value(const Arguments& a, const Tensor& grad_output, Tensor& grad_value) {
  using C = typename compute_of<T>::type;
  const Sizes& s = a.sizes;
  const int64_t n = s.queries * s.heads * s.levels * s.points, keys = keys_of_image(s);
  STD_TORCH_CHECK(n < (int64_t{1} << 31) && keys < (int64_t{1} << 31),
                  "ms_deform_attn: too many points or tokens in one image for the deterministic backward pass");
  const cudaStream_t stream = current_stream(grad_value);
  Tensor buffers = new_bytes(grad_value, (4 * n + keys + 4) * static_cast<int64_t>(sizeof(uint32_t)));
  uint32_t* key_in = static_cast<uint32_t*>(buffers.mutable_data_ptr());
  uint32_t *key_out = key_in + n, *id_in = key_out + n, *id_out = id_in + n, *first = id_out + n;
  Tensor shares = new_bytes(grad_value, n * static_cast<int64_t>(sizeof(Share<C>)));
  Share<C>* share = static_cast<Share<C>*>(shares.mutable_data_ptr());
  int bits = 1;
  while ((keys >> bits) != 0) bits++;
  size_t sort_bytes = 0;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, key_in, key_out, id_in, id_out, static_cast<int>(n),
                                             0, bits, stream));
  Tensor sort_space = new_bytes(grad_value, static_cast<int64_t>(sort_bytes) + 1);

  const Plan plan = checked_plan<C>(s, V);
  const int64_t level_bytes = s.levels * static_cast<int64_t>(sizeof(Level<C>));
  const int64_t slot_blocks = (s.queries * s.heads + plan.slots - 1) / plan.slots;
  const int rows_per_block = 256 / plan.lanes;
  const int64_t row_blocks = (s.tokens * s.heads + rows_per_block - 1) / rows_per_block;
  STD_TORCH_CHECK(row_blocks < (int64_t{1} << 31), "ms_deform_attn: more than 2**31 blocks of value rows");
  const auto keys_of = a.points.reference_dim ? keys_kernel<C, true> : keys_kernel<C, false>;
  for (int64_t image = 0; image < s.batch; image++) {
    keys_of<<<static_cast<unsigned>(slot_blocks), plan.threads, level_bytes, stream>>>(
        KeysKernel<C>{s, a.points, plan, image, key_in, id_in, share});
    check_cuda(cudaGetLastError());
    check_cuda(cub::DeviceRadixSort::SortPairs(sort_space.mutable_data_ptr(), sort_bytes, key_in, key_out, id_in,
                                               id_out, static_cast<int>(n), 0, bits, stream));
    first_of_key_kernel<<<static_cast<unsigned>(n / 256 + 1), 256, 0, stream>>>(key_out, n, keys, first);
    check_cuda(cudaGetLastError());
    pull_kernel<T, V><<<static_cast<unsigned>(row_blocks), 256, level_bytes, stream>>>(PullKernel<T>{
        s, plan.lanes, rows_per_block, image, first, id_out, share, static_cast<const T*>(grad_output.const_data_ptr()),
        static_cast<T*>(grad_value.mutable_data_ptr())});
    check_cuda(cudaGetLastError());
  }
}

struct Gradients {
  Tensor value, reference, locations, weights;
};

template <typename T, int V> void launch_backward(const Arguments& a, const Tensor& grad_output, bool deterministic,
                                                  Gradients& g) {
  using C = typename compute_of<T>::type;
  const Sizes& s = a.sizes;
  const Plan plan = checked_plan<C>(s, V);
  // Sums in the compute type; a 16-bit gradient is rounded once, at the end.
  Tensor sums;
  if (deterministic) {
    g.value = torch::stable::new_empty(a.value, a.value.sizes());
    pull_grad_value<T, V>(a, grad_output, g.value);
  } else {
    sums = torch::stable::new_zeros(a.value, a.value.sizes(), a.compute_type());
  }
  Tensor parts;
  if (a.points.reference_dim) {
    parts = torch::stable::new_empty(a.value, {s.batch, s.queries, s.heads, s.levels, a.points.reference_dim},
                                     a.compute_type());
  }
  const BackwardKernel<T> work{s,
                               a.points,
                               plan,
                               static_cast<const T*>(a.value.const_data_ptr()),
                               static_cast<const T*>(grad_output.const_data_ptr()),
                               deterministic ? nullptr : static_cast<C*>(sums.mutable_data_ptr()),
                               g.locations.mutable_data_ptr(),
                               g.weights.mutable_data_ptr(),
                               a.points.reference_dim ? static_cast<C*>(parts.mutable_data_ptr()) : nullptr};
  const auto kernel = a.points.reference_dim ? backward_kernel<T, V, true> : backward_kernel<T, V, false>;
  kernel<<<static_cast<unsigned>(plan.blocks), plan.threads, plan.shared, current_stream(g.locations)>>>(work);
  check_cuda(cudaGetLastError());
  if (!deterministic) {
    g.value = sums.scalar_type() == a.value.scalar_type() ? sums : torch::stable::to(sums, a.value.scalar_type());
  }
  if (a.points.reference_dim) {
    const int64_t heads_dim = 2;
    g.reference = torch::stable::sum(parts, torch::headeronly::IntHeaderOnlyArrayRef(&heads_dim, 1));
    if (g.reference.scalar_type() != a.reference.scalar_type()) {
      g.reference = torch::stable::to(g.reference, a.reference.scalar_type());
    }
  }
}

Gradients backward_cuda(const Arguments& a, const Tensor& grad_output_, bool deterministic) {
  const DeviceGuard guard(a.value.get_device_index());
  const Sizes& s = a.sizes;
  const Tensor grad_output = a.check_grad_output(grad_output_);
  Gradients g;
  if (a.locations.numel() == 0 || a.value.numel() == 0) {
    g.value = torch::stable::new_zeros(a.value, a.value.sizes());
    g.locations = torch::stable::new_zeros(a.locations, a.locations.sizes());
    g.weights = torch::stable::new_zeros(a.weights, a.weights.sizes());
    if (a.points.reference_dim) g.reference = torch::stable::new_zeros(a.reference, a.reference.sizes());
    return g;
  }
  g.locations = torch::stable::new_empty(a.locations, a.locations.sizes());
  g.weights = torch::stable::new_empty(a.weights, a.weights.sizes());
  for_type(a.type, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int V = 16 / sizeof(T);
    aligned(s, sizeof(T), {a.value.const_data_ptr(), grad_output.const_data_ptr()})
        ? launch_backward<T, V>(a, grad_output, deterministic, g)
        : launch_backward<T, 1>(a, grad_output, deterministic, g);
  });
  return g;
}

Tensor forward(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
               const Tensor& sampling_locations, const Tensor& attention_weights) {
  return forward_cuda({value, spatial_shapes, level_start_index, nullptr, sampling_locations, attention_weights});
}

Tensor fused(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
             const Tensor& reference_points, const Tensor& sampling_offsets, const Tensor& attention_logits) {
  return forward_cuda(
      {value, spatial_shapes, level_start_index, &reference_points, sampling_offsets, attention_logits});
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value,
                                            const Tensor& spatial_shapes, const Tensor& level_start_index,
                                            const Tensor& sampling_locations, const Tensor& attention_weights,
                                            bool deterministic) {
  const Gradients g = backward_cuda(
      {value, spatial_shapes, level_start_index, nullptr, sampling_locations, attention_weights}, grad_output,
      deterministic);
  return {g.value, g.locations, g.weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_backward(const Tensor& grad_output, const Tensor& value,
                                                          const Tensor& spatial_shapes, const Tensor& level_start_index,
                                                          const Tensor& reference_points,
                                                          const Tensor& sampling_offsets,
                                                          const Tensor& attention_logits, bool deterministic) {
  const Gradients g = backward_cuda(
      {value, spatial_shapes, level_start_index, &reference_points, sampling_offsets, attention_logits}, grad_output,
      deterministic);
  return {g.value, g.reference, g.locations, g.weights};
}

}  // namespace
}  // namespace dino_d2

STABLE_TORCH_LIBRARY_IMPL(dino_d2, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&dino_d2::forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&dino_d2::backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&dino_d2::fused));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&dino_d2::fused_backward));
}
