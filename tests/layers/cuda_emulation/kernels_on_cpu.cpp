// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels behind C functions, for tests/layers/test_ms_deform_attn_cuda_kernels.py.
#include "emulated_cuda.h"

#include <algorithm>
#include <numeric>

#include "cuda/pull.cuh"

namespace dino_d2 {

alignas(16) unsigned char shared[kSharedLimit + 16];

namespace {

struct Call {  // the same order as in the test
  int64_t batch, tokens, queries, heads, channels, levels, points;
  const int64_t *shapes, *starts;
  const void *value, *locations, *weights, *reference;
  int64_t reference_dim, point_type, wide;  // wide: 16 bytes a thread
  const void* grad_output;
  void *output, *grad_value, *grad_locations, *grad_weights, *grad_reference;  // grad_value: sums, or rounded by pull
};

Sizes sizes_of(const Call& c) {
  return {c.batch, c.tokens, c.queries, c.heads, c.channels, c.levels, c.points, c.shapes, c.starts};
}
Points points_of(const Call& c) {
  const DType type = static_cast<DType>(c.point_type);
  return {{c.locations, type}, {c.weights, type}, {c.reference, type}, c.reference_dim};
}
void poison(int64_t bytes) {  // what a kernel has not written must not be read
  if (bytes > kSharedLimit) abort();
  memset(shared, 0xff, sizeof(shared));
}

template <typename T, int V> int forward(const Call& c) {
  using C = typename compute_of<T>::type;
  const Plan plan = plan_for<C>(sizes_of(c), V);
  if (plan.lanes == 0) return 0;
  const ForwardKernel<T> work{sizes_of(c), points_of(c), plan, static_cast<const T*>(c.value), static_cast<T*>(c.output)};
  poison(plan.shared);
  emulation::launch(plan.blocks, plan.threads, [&] {
    c.reference_dim ? forward_kernel<T, V, true>(work) : forward_kernel<T, V, false>(work);
  });
  return plan.lanes;
}

template <typename T, int V> void pull(const Call& c) {
  using C = typename compute_of<T>::type;
  const Sizes s = sizes_of(c);
  const Plan plan = plan_for<C>(s, V);
  const int64_t n = s.queries * s.heads * s.levels * s.points, keys = keys_of_image(s);
  const int rows_per_block = 256 / plan.lanes;
  for (int64_t image = 0; image < s.batch; image++) {
    std::vector<uint32_t> key(n), id(n), sorted(n), order(n), first(keys + 1, 0xffffffffu);
    std::vector<Share<C>> shares(n);
    const KeysKernel<C> work{s, points_of(c), plan, image, key.data(), id.data(), shares.data()};
    poison(s.levels * sizeof(Level<C>));
    emulation::launch((s.queries * s.heads + plan.slots - 1) / plan.slots, plan.threads,
                      [&] { c.reference_dim ? keys_kernel<C, true>(work) : keys_kernel<C, false>(work); });
    order = id;
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return key[a] < key[b]; });
    for (int64_t i = 0; i < n; i++) sorted[i] = key[order[i]];
    emulation::launch(n / 256 + 1, 256, [&] { first_of_key_kernel(sorted.data(), n, keys, first.data()); });
    const PullKernel<T> gather{s, plan.lanes, rows_per_block, image, first.data(), order.data(), shares.data(),
                               static_cast<const T*>(c.grad_output), static_cast<T*>(c.grad_value)};
    poison(s.levels * sizeof(Level<C>));
    emulation::launch((s.tokens * s.heads + rows_per_block - 1) / rows_per_block, 256,
                      [&] { pull_kernel<T, V>(gather); });
  }
}

template <typename T, int V> int backward(const Call& c, bool deterministic) {
  using C = typename compute_of<T>::type;
  const Plan plan = plan_for<C>(sizes_of(c), V);
  if (plan.lanes == 0) return 0;
  const BackwardKernel<T> work{sizes_of(c),
                               points_of(c),
                               plan,
                               static_cast<const T*>(c.value),
                               static_cast<const T*>(c.grad_output),
                               deterministic ? nullptr : static_cast<C*>(c.grad_value),
                               c.grad_locations,
                               c.grad_weights,
                               static_cast<C*>(c.grad_reference)};
  poison(plan.shared);
  emulation::launch(plan.blocks, plan.threads, [&] {
    c.reference_dim ? backward_kernel<T, V, true>(work) : backward_kernel<T, V, false>(work);
  });
  if (deterministic) pull<T, V>(c);
  return plan.lanes;
}

template <typename T> int run(const Call& c, int what) {
  constexpr int V = 16 / sizeof(T);
  if (what == 0) return c.wide ? forward<T, V>(c) : forward<T, 1>(c);
  return c.wide ? backward<T, V>(c, what == 2) : backward<T, 1>(c, what == 2);
}

}  // namespace
}  // namespace dino_d2

// what: 0 forward, 1 backward, 2 deterministic backward. type: of the value. Returns the lanes of a slot, 0: too large.
extern "C" int run_kernels(const dino_d2::Call* call, int type, int what) {
  switch (static_cast<dino_d2::DType>(type)) {
    case dino_d2::DType::f32: return dino_d2::run<float>(*call, what);
    case dino_d2::DType::f64: return dino_d2::run<double>(*call, what);
    case dino_d2::DType::bf16: return dino_d2::run<__nv_bfloat16>(*call, what);
    default: return -1;
  }
}
