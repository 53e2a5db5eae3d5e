// SPDX-License-Identifier: Apache-2.0
// Multi-scale deformable attention: the schema of the op, and its kernels for the CPU.
//
// Uses only the stable ABI of LibTorch, so that one build works with later versions of PyTorch. Fake kernels, autograd
// and the autocast rule are registered from Python (dino_d2/layers/ms_deform_attn_op.py).
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "arguments.h"
#include "levels.h"

namespace dino_d2 {
namespace {

const Kernels* choose_kernels() {
  const char* variable = std::getenv("DINO_D2_CPU_CAPABILITY");
  const std::string name = variable ? variable : "";
  STD_TORCH_CHECK(name.empty() || name == "generic" || name == "avx2" || name == "avx512",
                  "DINO_D2_CPU_CAPABILITY must be generic, avx2 or avx512, but is ", name);
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (name.empty() || name == "avx512")) return &kernels_avx512;
  if (avx2 && name != "generic") return &kernels_avx2;
#endif
  return &kernels_generic;
}

const Kernels& kernels_for_this_cpu() {
  static const Kernels* const chosen = choose_kernels();
  return *chosen;
}

void check_levels(const Sizes& s) {
  const int64_t l = first_bad_level(s);
  if (l < 0) return;
  const int64_t h = s.shapes[2 * l], w = s.shapes[2 * l + 1], start = s.starts[l];
  STD_TORCH_CHECK(is_level_size(h, w), "ms_deform_attn: spatial_shapes[", l, "] = (", h, ", ", w,
                  ") is not a size (H, W) of a level");
  STD_TORCH_CHECK(false, "ms_deform_attn: level ", l, " of ", h, " x ", w, " tokens from level_start_index[", l,
                  "] = ", start, " overlaps the level before it or reaches past the ", s.tokens, " tokens of value");
}

bool levels_cover(const Sizes& s) {
  int64_t tokens = 0;
  for (int64_t l = 0; l < s.levels; l++) tokens += s.shapes[2 * l] * s.shapes[2 * l + 1];
  return tokens == s.tokens;
}

// Parallel over queries, in chunks of at least a few thousand sampling points.
template <typename Work> void for_each_query(const Sizes& s, const Work& work) {
  const int64_t points = s.heads * s.levels * s.points;
  torch::stable::parallel_for(0, s.batch * s.queries, 1 + 2048 / (points + 1), work);
}

Tensor forward_cpu(const Arguments& a) {
  const Sizes& s = a.sizes;
  check_levels(s);
  Tensor output = torch::stable::new_empty(a.value, {s.batch, s.queries, s.heads * s.channels});
  if (output.numel() == 0) return output;
  const Forward work{s, a.points, a.type, a.value.const_data_ptr(), output.mutable_data_ptr()};
  const Kernels& kernels = kernels_for_this_cpu();
  torch::stable::parallel_for(0, s.batch * s.heads * s.queries, 1 + 2048 / (s.levels * s.points + 1),
                              [&](int64_t begin, int64_t end) { kernels.forward(work, begin, end); });
  return output;
}

// Returns grad_value and overwrites locations and weights with their gradients.
Tensor backward_cpu(const Arguments& a, const Tensor& grad_output, Tensor& locations, Tensor& weights) {
  const Sizes& s = a.sizes;
  if (locations.numel() == 0 || a.value.numel() == 0) {
    torch::stable::zero_(locations);
    torch::stable::zero_(weights);
    return torch::stable::new_zeros(a.value, a.value.sizes());
  }
  Tensor grad_value = levels_cover(s) ? torch::stable::new_empty(a.value, a.value.sizes())
                                      : torch::stable::new_zeros(a.value, a.value.sizes());
  const Backward work{s,
                      a.type,
                      a.value.const_data_ptr(),
                      grad_output.const_data_ptr(),
                      grad_value.mutable_data_ptr(),
                      locations.mutable_data_ptr(),
                      weights.mutable_data_ptr()};
  const Kernels& kernels = kernels_for_this_cpu();
  torch::stable::parallel_for(0, s.batch * s.heads * s.levels, 1,
                              [&](int64_t begin, int64_t end) { kernels.backward(work, begin, end); });
  return grad_value;
}

Tensor back_to(const Tensor& t, const Tensor& like) {
  return t.scalar_type() == like.scalar_type() ? t : torch::stable::to(t, like.scalar_type());
}

Tensor forward(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
               const Tensor& sampling_locations, const Tensor& attention_weights) {
  return forward_cpu({value, spatial_shapes, level_start_index, nullptr, sampling_locations, attention_weights});
}

Tensor fused(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
             const Tensor& reference_points, const Tensor& sampling_offsets, const Tensor& attention_logits) {
  return forward_cpu({value, spatial_shapes, level_start_index, &reference_points, sampling_offsets, attention_logits});
}

// Fills buffers of the compute type with locations and weights; the backward pass overwrites them with their gradients.
Expand expand(const Arguments& a, Tensor& locations, Tensor& weights) {
  locations = torch::stable::new_empty(a.locations, a.locations.sizes(), a.compute_type());
  weights = torch::stable::new_empty(a.weights, a.weights.sizes(), a.compute_type());
  const Expand work{a.sizes, a.points, a.type == DType::f64, locations.mutable_data_ptr(), weights.mutable_data_ptr()};
  const Kernels& kernels = kernels_for_this_cpu();
  for_each_query(a.sizes, [&](int64_t begin, int64_t end) { kernels.expand(work, begin, end); });
  return work;
}

// The CPU result never depends on the order of threads: `deterministic` is for CUDA.
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value,
                                            const Tensor& spatial_shapes, const Tensor& level_start_index,
                                            const Tensor& sampling_locations, const Tensor& attention_weights,
                                            bool /*deterministic*/) {
  const Arguments a(value, spatial_shapes, level_start_index, nullptr, sampling_locations, attention_weights);
  check_levels(a.sizes);
  Tensor locations, weights;
  expand(a, locations, weights);
  Tensor grad_value = backward_cpu(a, a.check_grad_output(grad_output), locations, weights);
  return {grad_value, back_to(locations, a.locations), back_to(weights, a.weights)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_backward(const Tensor& grad_output, const Tensor& value,
                                                          const Tensor& spatial_shapes, const Tensor& level_start_index,
                                                          const Tensor& reference_points,
                                                          const Tensor& sampling_offsets,
                                                          const Tensor& attention_logits, bool /*deterministic*/) {
  const Arguments a(value, spatial_shapes, level_start_index, &reference_points, sampling_offsets, attention_logits);
  check_levels(a.sizes);
  Tensor locations, weights;
  expand(a, locations, weights);
  Tensor grad_value = backward_cpu(a, a.check_grad_output(grad_output), locations, weights);
  Tensor reference = torch::stable::new_empty(a.reference, a.reference.sizes(), a.compute_type());
  const FusedFinish work{a.sizes,
                         a.points,
                         a.type == DType::f64,
                         locations.mutable_data_ptr(),
                         weights.mutable_data_ptr(),
                         reference.mutable_data_ptr()};
  const Kernels& kernels = kernels_for_this_cpu();
  if (a.sizes.points == 0) {
    torch::stable::zero_(reference);  // half the box divided by no points would be 0 / 0
  } else {
    for_each_query(a.sizes, [&](int64_t begin, int64_t end) { kernels.fused_finish(work, begin, end); });
  }
  return {grad_value, back_to(reference, a.reference), back_to(locations, a.locations), back_to(weights, a.weights)};
}

std::string cpu_capability() { return kernels_for_this_cpu().name; }

}  // namespace
}  // namespace dino_d2

STABLE_TORCH_LIBRARY(dino_d2, m) {
  m.def(
      "ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights, bool deterministic) -> (Tensor, Tensor, Tensor)");
  m.def(
      "ms_deform_attn_fused(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor reference_points, "
      "Tensor sampling_offsets, Tensor attention_logits) -> Tensor");
  m.def(
      "ms_deform_attn_fused_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes, "
      "Tensor level_start_index, Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, "
      "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("cpu_capability() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(dino_d2, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&dino_d2::forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&dino_d2::backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&dino_d2::fused));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&dino_d2::fused_backward));
}

STABLE_TORCH_LIBRARY_IMPL(dino_d2, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&dino_d2::cpu_capability));
}
