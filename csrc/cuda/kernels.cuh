// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of multi-scale deformable attention.
//
// A slot is one (batch, query, head). `lanes` threads of a warp own it (a power of two), each V channels: 16 bytes. The
// lanes first divide the L * P points of their slot among them: each computes the corners and weights of some of them into
// shared memory; then all lanes walk over all points, each for its own channels. Warps work alone, without barriers.
// A block holds whole warps of consecutive slots, so that the heads of a query, which look at the same rows, sit together.
#pragma once
#include "points.cuh"

namespace dino_d2 {

// The launch configuration, computed on the host; the same for every kernel over slots.
struct Plan {
  int lanes;    // threads that own one slot
  int threads;  // per block
  int slots;    // per block
  int64_t blocks;
  int64_t shared;  // bytes of shared memory per block
};

// One entry per point in shared memory: rows of the corners, then four numbers. One spare entry a slot keeps the slots of
// a warp on different banks.
template <typename C> struct alignas(16) Entry {
  int4 row;
  C a, b, c, d;
};

constexpr int kSharedLimit = 48 * 1024;

// Zero lanes where the points do not fit the shared memory.
template <typename C> inline Plan plan_for(const Sizes& s, int channels_per_lane) {
  const int64_t needed = (s.channels + channels_per_lane - 1) / channels_per_lane;
  const int64_t entry_bytes = (s.levels * s.points + 1) * static_cast<int64_t>(sizeof(Entry<C>));
  const int64_t level_bytes = (s.levels * static_cast<int64_t>(sizeof(Level<C>)) + 15) / 16 * 16;
  int lanes = 1;
  while (lanes < needed && lanes < 32) lanes *= 2;
  while (lanes < 32 && 32 / lanes * entry_bytes + level_bytes > kSharedLimit) lanes *= 2;
  if (32 / lanes * entry_bytes + level_bytes > kSharedLimit) return {};
  int threads = 256;
  while (threads > 32 && threads / lanes * entry_bytes + level_bytes > kSharedLimit / 2) threads /= 2;
  Plan plan{lanes, threads, threads / lanes, 0, 0};
  plan.blocks = (s.batch * s.queries * s.heads + plan.slots - 1) / plan.slots;
  plan.shared = plan.slots * entry_bytes + level_bytes;
  return plan;
}

template <typename C> struct Slot {
  int lane, lanes;
  bool active;
  int64_t index;  // (batch * Q + query) * M + head
  int64_t query;  // batch * Q + query
  int64_t batch, head;
  const Level<C>* levels;
  Entry<C>* entries;

  __device__ Slot(const Sizes& s, const Plan& plan, unsigned char* shared) {
    lanes = plan.lanes;
    lane = threadIdx.x % lanes;
    const int in_block = threadIdx.x / lanes, n = static_cast<int>(s.levels * s.points);
    index = static_cast<int64_t>(blockIdx.x) * plan.slots + in_block;
    active = index < s.batch * s.queries * s.heads;
    if (!active) index = 0;
    query = index / s.heads;
    head = index - query * s.heads;
    batch = query / s.queries;
    levels = reinterpret_cast<Level<C>*>(shared);
    entries = reinterpret_cast<Entry<C>*>(shared + (s.levels * sizeof(Level<C>) + 15) / 16 * 16) + in_block * (n + 1);
  }
};

template <typename T> struct ForwardKernel {
  Sizes sizes;
  Points points;
  Plan plan;
  const T* value;
  T* output;
};

template <typename T, int V, bool fused> __global__ void forward_kernel(const ForwardKernel<T> p) {
  using C = typename compute_of<T>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  const Sizes& s = p.sizes;
  load_levels(s, reinterpret_cast<Level<C>*>(shared));
  const Slot<C> slot(s, p.plan, shared);
  const int n = static_cast<int>(s.levels * s.points), points = static_cast<int>(s.points);

  Softmax<C> softmax{};
  if (fused) softmax = softmax_of<C>(p.points.weights, slot.index * n, n, slot.lane, slot.lanes, slot.active);
  for (int i = slot.lane; slot.active && i < n; i += slot.lanes) {
    const int l = i / points;
    const Level<C>& level = slot.levels[l];
    const Place<C> place = place_of<C, fused>(s, p.points, level, slot.index, slot.query, l, i, softmax);
    const Corners<C> c = find_corners(level, place.x, place.y);
    const C top = (C(1) - c.fy) * place.weight, bottom = c.fy * place.weight, left = C(1) - c.fx;
    slot.entries[i] = {c.row, left * top, c.fx * top, left * bottom, c.fx * bottom};
  }
  __syncwarp();
  if (!slot.active) return;

  const int64_t stride = s.heads * s.channels;
  const T* base = p.value + slot.batch * s.tokens * stride + slot.head * s.channels;
  for (int64_t c = slot.lane * V; c < s.channels; c += slot.lanes * V) {
    C sum[V] = {};
#pragma unroll 4
    for (int i = 0; i < n; i++) {
      const Entry<C> e = slot.entries[i];
      const int row[4] = {e.row.x, e.row.y, e.row.z, e.row.w};
      const C weight[4] = {e.a, e.b, e.c, e.d};
#pragma unroll
      for (int k = 0; k < 4; k++) {
        C x[V] = {};
        if (row[k] >= 0) load_pack<V>(base + row[k] * stride + c, x);
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] += weight[k] * x[v];
      }
    }
    store_pack<V>(p.output + slot.index * s.channels + c, sum);
  }
}

template <typename T> struct BackwardKernel {
  using C = typename compute_of<T>::type;
  Sizes sizes;
  Points points;
  Plan plan;
  const T* value;
  const T* grad_output;
  C* grad_value;         // sums, zero at the start; null: left to pull_kernel
  void* grad_locations;  // of locations or offsets, in their dtype
  void* grad_weights;    // of weights or logits, in their dtype
  C* grad_reference;     // fused: [B, Q, M, L, reference_dim], one part per head
};

template <typename T, int V, bool fused> __global__ void backward_kernel(const BackwardKernel<T> p) {
  using C = typename compute_of<T>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  const Sizes& s = p.sizes;
  load_levels(s, reinterpret_cast<Level<C>*>(shared));
  const Slot<C> slot(s, p.plan, shared);
  const int n = static_cast<int>(s.levels * s.points), points = static_cast<int>(s.points);

  Softmax<C> softmax{};
  if (fused) softmax = softmax_of<C>(p.points.weights, slot.index * n, n, slot.lane, slot.lanes, slot.active);
  for (int i = slot.lane; i < n; i += slot.lanes) {
    Entry<C> entry{{-1, -1, -1, -1}, C(0), C(0), C(0), C(0)};
    if (slot.active) {
      const int l = i / points;
      const Place<C> place = place_of<C, fused>(s, p.points, slot.levels[l], slot.index, slot.query, l, i, softmax);
      const Corners<C> c = find_corners(slot.levels[l], place.x, place.y);
      entry = {c.row, c.fx, c.fy, place.weight, C(0)};
    }
    slot.entries[i] = entry;
  }
  __syncwarp();

  // Every thread of the warp takes part in the sums over lanes; an inactive slot has only corners off the map.
  const int64_t stride = s.heads * s.channels, image = slot.batch * s.tokens * stride + slot.head * s.channels;
  const T* grad_output = p.grad_output + slot.index * s.channels;
  C weighted = 0;  // sum of weight * gradient of the weight, for the softmax
  for (int i = 0; i < n; i++) {
    const Entry<C> e = slot.entries[i];
    const C fx = e.a, fy = e.b, attention = e.c;
    const int row[4] = {e.row.x, e.row.y, e.row.z, e.row.w};
    const C corner[4] = {(C(1) - fx) * (C(1) - fy), fx * (C(1) - fy), (C(1) - fx) * fy, fx * fy};
    C dot[4] = {};
    for (int64_t c = slot.lane * V; slot.active && c < s.channels; c += slot.lanes * V) {
      C go[V];
      load_pack<V>(grad_output + c, go);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        if (row[k] < 0) continue;
        C x[V];
        load_pack<V>(p.value + image + row[k] * stride + c, x);
#pragma unroll
        for (int v = 0; v < V; v++) dot[k] += go[v] * x[v];
        if (p.grad_value != nullptr) {
          const C w = corner[k] * attention;
#pragma unroll
          for (int v = 0; v < V; v++) x[v] = w * go[v];
          atomic_add_pack<V>(p.grad_value + image + row[k] * stride + c, x);
        }
      }
    }
    const C across_top = dot[1] - dot[0], across_bottom = dot[3] - dot[2];
    const C grad_weight = sum_over_lanes(
        corner[0] * dot[0] + corner[1] * dot[1] + corner[2] * dot[2] + corner[3] * dot[3], slot.lanes);
    const C grad_x = sum_over_lanes((C(1) - fy) * across_top + fy * across_bottom, slot.lanes);
    const C grad_y = sum_over_lanes((C(1) - fx) * (dot[2] - dot[0]) + fx * (dot[3] - dot[1]), slot.lanes);
    weighted += attention * grad_weight;
    if (slot.lane == 0) {  // all lanes have used the entry: the sums above needed them
      const Level<C>& level = slot.levels[i / points];
      slot.entries[i].a = grad_x * attention * level.width;
      slot.entries[i].b = grad_y * attention * level.height;
      slot.entries[i].d = grad_weight;
    }
  }
  __syncwarp();
  if (!slot.active) return;

  for (int i = slot.lane; i < n; i += slot.lanes) {
    const Entry<C> e = slot.entries[i];
    const int64_t index = slot.index * n + i;
    C scale_x = 1, scale_y = 1, grad_weight = e.d;
    if (fused) {
      const int l = i / points;
      const Place<C> place = place_of<C, fused>(s, p.points, slot.levels[l], slot.index, slot.query, l, i, softmax);
      scale_x = place.scale_x;
      scale_y = place.scale_y;
      grad_weight = e.c * (e.d - weighted);
    }
    write_element(p.grad_locations, p.points.locations.type, 2 * index, e.a * scale_x);
    write_element(p.grad_locations, p.points.locations.type, 2 * index + 1, e.b * scale_y);
    write_element(p.grad_weights, p.points.weights.type, index, grad_weight);
  }
  if (!fused) return;
  const int64_t dim = p.points.reference_dim;
  for (int l = slot.lane; l < s.levels; l += slot.lanes) {
    C x = 0, y = 0, w = 0, h = 0;
    for (int i = l * points; i < (l + 1) * points; i++) {
      const Entry<C> e = slot.entries[i];
      x += e.a;
      y += e.b;
      if (dim == 4) {
        const int64_t offset = 2 * (slot.index * n + i);
        w += e.a * read_element<C>(p.points.locations, offset);
        h += e.b * read_element<C>(p.points.locations, offset + 1);
      }
    }
    C* out = p.grad_reference + (slot.index * s.levels + l) * dim;
    out[0] = x;
    out[1] = y;
    if (dim == 4) {
      const C half = C(0.5) / static_cast<C>(s.points);
      out[2] = w * half;
      out[3] = h * half;
    }
  }
}

}  // namespace dino_d2
