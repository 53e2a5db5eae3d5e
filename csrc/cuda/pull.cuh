// SPDX-License-Identifier: Apache-2.0
// The deterministic gradient of the value: the points are sorted by the pixel of their corner 0 (a stable sort), then each
// row of the value sums the contributions of its points, in that order. No atomics: the order of every sum is fixed.
#pragma once
#include "kernels.cuh"

namespace dino_d2 {

// The contribution of a point: distances of its corners, and its weight.
template <typename C> struct alignas(4 * sizeof(C)) Share {
  C fx, fy, weight, unused;
};

// Base pixels of one head lie in [0, 4 * S): (H + 1) * (W + 1) <= 4 * H * W for each level.
__host__ __device__ inline int64_t keys_of_image(const Sizes& s) { return s.heads * 4 * s.tokens; }

template <typename C> struct KeysKernel {
  Sizes sizes;  // of the whole batch; slots are those of one image
  Points points;
  Plan plan;
  int64_t image;
  uint32_t* keys;  // [Q * M * L * P]; points without any corner on the map get the last key
  uint32_t* ids;   // 0, 1, 2, ...
  Share<C>* shares;
};

template <typename C, bool fused> __global__ void keys_kernel(const KeysKernel<C> p) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Sizes& s = p.sizes;
  Level<C>* levels = reinterpret_cast<Level<C>*>(shared);
  load_levels(s, levels);
  const int lanes = p.plan.lanes, lane = threadIdx.x % lanes;
  const int n = static_cast<int>(s.levels * s.points), points = static_cast<int>(s.points);
  int64_t in_image = static_cast<int64_t>(blockIdx.x) * p.plan.slots + threadIdx.x / lanes;
  const bool active = in_image < s.queries * s.heads;
  if (!active) in_image = 0;
  const int64_t slot = p.image * s.queries * s.heads + in_image, query = slot / s.heads;
  const uint32_t head = static_cast<uint32_t>(slot - query * s.heads);
  Softmax<C> softmax{};
  if (fused) softmax = softmax_of<C>(p.points.weights, slot * n, n, lane, lanes, active);
  for (int i = lane; active && i < n; i += lanes) {
    const int l = i / points;
    const Place<C> place = place_of<C, fused>(s, p.points, levels[l], slot, query, l, i, softmax);
    const Corners<C> c = find_corners(levels[l], place.x, place.y);
    const int base = base_pixel(levels[l], c);
    const int64_t out = in_image * n + i;
    p.keys[out] = base < 0 ? static_cast<uint32_t>(keys_of_image(s))
                           : head * static_cast<uint32_t>(4 * s.tokens) + static_cast<uint32_t>(base);
    p.ids[out] = static_cast<uint32_t>(out);
    p.shares[out] = {c.fx, c.fy, place.weight, C(0)};
  }
}

// first[k] = index of the first sorted point with key >= k, for k in [0, keys].
__global__ void first_of_key_kernel(const uint32_t* sorted, int64_t n, int64_t keys, uint32_t* first) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i > n) return;
  const int64_t after = i == 0 ? int64_t{-1} : int64_t{sorted[i - 1]}, upto = i == n ? keys : int64_t{sorted[i]};
  for (int64_t k = after + 1; k <= upto; k++) first[k] = static_cast<uint32_t>(i);
}

template <typename T> struct PullKernel {
  using C = typename compute_of<T>::type;
  Sizes sizes;
  int lanes, rows_per_block;
  int64_t image;
  const uint32_t* first;
  const uint32_t* ids;
  const Share<C>* shares;
  const T* grad_output;
  T* grad_value;
};

// One row (token, head) per `lanes` threads.
template <typename T, int V> __global__ void pull_kernel(const PullKernel<T> p) {
  using C = typename compute_of<T>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  const Sizes& s = p.sizes;
  Level<C>* levels = reinterpret_cast<Level<C>*>(shared);
  load_levels(s, levels);
  const int lane = threadIdx.x % p.lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.rows_per_block + threadIdx.x / p.lanes;
  if (row >= s.tokens * s.heads) return;
  const int64_t token = row / s.heads, head = row - token * s.heads;
  const uint32_t n = static_cast<uint32_t>(s.levels * s.points);
  const T* grad_output = p.grad_output + p.image * s.queries * s.heads * s.channels;
  T* out = p.grad_value + (p.image * s.tokens * s.heads + row) * s.channels;

  int level = -1;
  for (int l = 0; l < s.levels; l++) {
    if (token >= levels[l].start && token < levels[l].start + static_cast<int64_t>(levels[l].w) * levels[l].h)
      level = l;
  }
  uint32_t begin[2] = {0, 0}, middle[2] = {0, 0}, end[2] = {0, 0};
  if (level >= 0) {
    const Level<C>& at = levels[level];
    const int inside = static_cast<int>(token - at.start), y = inside / at.w, x = inside - y * at.w;
    for (int below = 0; below < 2; below++) {  // points whose corner 0 is in this row of pixels, or in the one above
      const int64_t key = head * 4 * s.tokens + at.padded_start + static_cast<int64_t>(y + 1 - below) * (at.w + 1) + x;
      begin[below] = p.first[key];       // corner 0 one column to the left: this pixel is the right corner
      middle[below] = p.first[key + 1];  // corner 0 in this column
      end[below] = p.first[key + 2];
    }
  }
  for (int64_t c = lane * V; c < s.channels; c += p.lanes * V) {
    C sum[V] = {};
    for (int below = 0; below < 2; below++) {
      for (uint32_t i = begin[below]; i < end[below]; i++) {
        const uint32_t id = p.ids[i];
        const Share<C> share = p.shares[id];
        const C across = i < middle[below] ? share.fx : C(1) - share.fx;
        const C down = below ? share.fy : C(1) - share.fy;
        const C weight = across * down * share.weight;
        C go[V];
        load_pack<V>(grad_output + static_cast<int64_t>(id / n) * s.channels + c, go);
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] += weight * go[v];
      }
    }
    store_pack<V>(out + c, sum);
  }
}

}  // namespace dino_d2
