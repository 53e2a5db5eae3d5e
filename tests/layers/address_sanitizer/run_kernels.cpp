// SPDX-License-Identifier: Apache-2.0
// Runs the CPU kernels on random sizes with buffers of exactly the sizes that the op allocates, for
// tests/layers/test_ms_deform_attn_memory.py: built with -fsanitize=address, a read or write beside a buffer ends it.
#include <stdio.h>
#include <stdlib.h>

#include <random>
#include <vector>

#include "levels.h"

namespace dino_d2 {
namespace {

std::mt19937_64 generator(0);

int64_t any(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

// Memory of exactly n elements, filled with small numbers, some of them far outside the map or NaN.
struct Buffer {
  DType type;
  void* data;
  Buffer(DType t, int64_t n) : type(t) {
    const size_t size = t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2;
    data = malloc(n * size);
    for (int64_t i = 0; i < n; i++) {
      const int64_t kind = any(0, 30);
      const double x = kind == 0 ? 1e30 : kind == 1 ? -1e30 : kind == 2 ? NAN : any(-500, 1500) / 1000.0;
      if (t == DType::f64) static_cast<double*>(data)[i] = x;
      if (t == DType::f32) static_cast<float*>(data)[i] = static_cast<float>(x);
      if (size == 2) static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(any(0, 65535));  // any bits
    }
  }
  ~Buffer() { free(data); }
  TensorView view() const { return {data, type}; }
};

void run(const Kernels& kernels) {
  const DType types[] = {DType::f32, DType::f64, DType::f16, DType::bf16};
  const DType type = types[any(0, 3)], point_type = types[any(0, 3)];
  const DType compute = type == DType::f64 ? DType::f64 : DType::f32;
  Sizes s{any(1, 2), 0, any(1, 19), any(1, 3), any(1, 70), any(1, 4), any(1, 6), nullptr, nullptr};
  std::vector<int64_t> shapes, starts;
  for (int64_t l = 0; l < s.levels; l++) {
    s.tokens += any(0, 1) * any(0, 5);  // tokens that no level has
    starts.push_back(s.tokens);
    shapes.push_back(any(1, 9));
    shapes.push_back(any(1, 9));
    s.tokens += shapes[2 * l] * shapes[2 * l + 1];
  }
  s.shapes = shapes.data();
  s.starts = starts.data();
  if (first_bad_level(s) >= 0) abort();

  const int64_t dim = 2 * any(0, 2), points = s.batch * s.queries * s.heads * s.levels * s.points;
  const int64_t row = s.heads * s.channels, references = s.batch * s.queries * s.levels * dim;
  const Buffer value(type, s.batch * s.tokens * row), locations(point_type, 2 * points), weights(point_type, points);
  const Buffer reference(point_type, references), output(type, s.batch * s.queries * row);
  const Points p{locations.view(), weights.view(), reference.view(), dim};
  kernels.forward({s, p, type, value.data, output.data}, 0, s.batch * s.heads * s.queries);

  const Buffer grad_value(type, s.batch * s.tokens * row);
  const Buffer grad_locations(compute, 2 * points), grad_weights(compute, points), grad_reference(compute, references);
  const bool is_double = compute == DType::f64;
  kernels.expand({s, p, is_double, grad_locations.data, grad_weights.data}, 0, s.batch * s.queries);
  kernels.backward({s, type, value.data, output.data, grad_value.data, grad_locations.data, grad_weights.data}, 0,
                   s.batch * s.heads * s.levels);
  if (dim == 0) return;
  kernels.fused_finish({s, p, is_double, grad_locations.data, grad_weights.data, grad_reference.data}, 0,
                       s.batch * s.queries);
}

// Levels that reach past value, by a token or by as much as int64 has, are found.
void check_refusals() {
  const int64_t shapes[] = {6, 8, 3, 4};
  for (int64_t start : {int64_t{49}, INT64_MAX, INT64_MAX - 11, INT64_MIN, int64_t{-1}, int64_t{47}}) {
    const int64_t starts[] = {0, start};
    if (first_bad_level({1, 60, 1, 1, 1, 2, 1, shapes, starts}) != 1) abort();
  }
}

}  // namespace
}  // namespace dino_d2

int main(int argc, char** argv) {
  using namespace dino_d2;
  check_refusals();
  std::vector<const Kernels*> all{&kernels_generic};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&kernels_avx2);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    all.push_back(&kernels_avx512);
#endif
  for (const Kernels* kernels : all) {
    for (int i = 0; i < atoi(argv[1]); i++) run(*kernels);
    printf("%s\n", kernels->name);
  }
}
