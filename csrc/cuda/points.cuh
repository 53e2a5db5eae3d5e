// SPDX-License-Identifier: Apache-2.0
// Where a point samples: the arithmetic that every CUDA kernel of the op shares.
#pragma once
#include "cpu/kernels.h"
#include "elements.cuh"

namespace dino_d2 {

template <typename C> struct Level {
  C width, height;
  int w, h;
  int start;         // first token
  int padded_start;  // first of its (h + 1) * (w + 1) base pixels, see base_pixel
};

// Loads the levels into shared memory; called by all threads of a block.
//
// The host cannot check the contents of spatial_shapes and level_start_index without waiting for the device, so they are
// checked here: a level that overlaps the one before it, or does not lie inside value, gets no pixels and a NaN size. The
// kernels then touch no memory for it, and everything computed from it is NaN.
template <typename C> __device__ inline void load_levels(const Sizes& s, Level<C>* levels) {
  for (int l = threadIdx.x; l < s.levels; l += blockDim.x) {
    const int64_t h = s.shapes[2 * l], w = s.shapes[2 * l + 1], start = s.starts[l];
    const bool has_size = h >= 1 && w >= 1 && h <= s.tokens && w <= s.tokens;  // so that h * w cannot overflow
    const bool inside = has_size && start >= 0 && start <= s.tokens - h * w;
    levels[l] = {static_cast<C>(w),
                 static_cast<C>(h),
                 inside ? static_cast<int>(w) : 0,
                 inside ? static_cast<int>(h) : 0,
                 inside ? static_cast<int>(start) : -1,
                 0};
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int end = 0, base_pixels = 0;
    for (int l = 0; l < s.levels; l++) {
      Level<C>& level = levels[l];
      if (level.start < end) {
        level = {C(NAN), C(NAN), 0, 0, 0, 0};
        continue;
      }
      end = level.start + level.h * level.w;
      level.padded_start = base_pixels;
      base_pixels += (level.w + 1) * (level.h + 1);
    }
  }
  __syncthreads();
}

// The four corners in the order (y0, x0), (y0, x1), (y1, x0), (y1, x1): token in the image, or -1 off the map.
template <typename C> struct Corners {
  int4 row;
  C fx, fy;  // distance from corner 0; NaN where the location is no number
  int x0, y0;
};

template <typename C> __device__ inline Corners<C> find_corners(const Level<C>& level, C x, C y) {
  x = x * level.width - C(0.5);
  y = y * level.height - C(0.5);
  C cx = x > C(-2) ? x : C(-2), cy = y > C(-2) ? y : C(-2);  // NaN becomes -2: off the map
  cx = cx < level.width ? cx : level.width;
  cy = cy < level.height ? cy : level.height;
  const C x_floor = floor(cx), y_floor = floor(cy);
  Corners<C> c;
  c.x0 = static_cast<int>(x_floor);
  c.y0 = static_cast<int>(y_floor);
  c.fx = (cx - x_floor) + (x - x);  // x - x is NaN for an infinite or NaN location
  c.fy = (cy - y_floor) + (y - y);
  const bool left = c.x0 >= 0 && c.x0 < level.w, right = c.x0 >= -1 && c.x0 < level.w - 1;
  const bool top = c.y0 >= 0 && c.y0 < level.h, bottom = c.y0 >= -1 && c.y0 < level.h - 1;
  const int first = level.start + c.y0 * level.w + c.x0;
  c.row.x = top && left ? first : -1;
  c.row.y = top && right ? first + 1 : -1;
  c.row.z = bottom && left ? first + level.w : -1;
  c.row.w = bottom && right ? first + level.w + 1 : -1;
  return c;
}

// Corner 0 may lie one row above or one column left of the map: a base pixel counts from there. -1: all corners off.
template <typename C> __device__ inline int base_pixel(const Level<C>& level, const Corners<C>& c) {
  if (c.x0 < -1 || c.y0 < -1 || c.x0 >= level.w || c.y0 >= level.h) return -1;
  return level.padded_start + (c.y0 + 1) * (level.w + 1) + c.x0 + 1;
}

// ---- location and weight of a point, plain or fused ----
template <typename C> struct Place {
  C x, y, weight;
  C scale_x, scale_y;  // fused: location = reference + offset * scale
};

// The softmax over the points of one head, shared by the `lanes` threads that own it.
template <typename C> struct Softmax {
  C top, inverse_sum;
};

template <typename C, typename Combine>
__device__ inline C combine_lanes(C v, int lanes, Combine combine) {
  for (int o = lanes / 2; o > 0; o /= 2) v = combine(v, __shfl_xor_sync(0xffffffffu, v, o, lanes));
  return v;
}
template <typename C> __device__ inline C sum_over_lanes(C v, int lanes) {
  return combine_lanes(v, lanes, [](C a, C b) { return a + b; });
}

// All 32 threads of a warp call this together. An inactive slot reads nothing.
template <typename C>
__device__ inline Softmax<C> softmax_of(const TensorView& logits, int64_t first, int n, int lane, int lanes,
                                        bool active) {
  C top = -C(INFINITY);
  for (int i = lane; active && i < n; i += lanes) {
    const C v = read_element<C>(logits, first + i);
    top = v > top || v != v ? v : top;
  }
  // A NaN must win: it makes every weight of the head NaN, as softmax does.
  top = combine_lanes(top, lanes, [](C a, C b) { return a != a ? a : (b > a || b != b ? b : a); });
  C sum = 0;
  for (int i = lane; active && i < n; i += lanes) sum += exp(read_element<C>(logits, first + i) - top);
  sum = sum_over_lanes(sum, lanes);
  return {top, C(1) / sum};
}

// Point i of slot (batch, query, head); `query` counts over batches.
template <typename C, bool fused>
__device__ inline Place<C> place_of(const Sizes& s, const Points& p, const Level<C>& level, int64_t slot, int64_t query,
                                    int l, int i, const Softmax<C>& softmax) {
  const int64_t index = slot * (s.levels * s.points) + i;
  Place<C> place;
  place.x = read_element<C>(p.locations, 2 * index);
  place.y = read_element<C>(p.locations, 2 * index + 1);
  place.weight = read_element<C>(p.weights, index);
  place.scale_x = place.scale_y = C(1);
  if (fused) {
    const int64_t r = (query * s.levels + l) * p.reference_dim;
    if (p.reference_dim == 2) {
      place.scale_x = C(1) / level.width;
      place.scale_y = C(1) / level.height;
    } else {
      const C half = C(0.5) / static_cast<C>(s.points);
      place.scale_x = read_element<C>(p.reference, r + 2) * half;
      place.scale_y = read_element<C>(p.reference, r + 3) * half;
    }
    place.x = read_element<C>(p.reference, r) + place.x * place.scale_x;
    place.y = read_element<C>(p.reference, r + 1) + place.y * place.scale_y;
    place.weight = exp(place.weight - softmax.top) * softmax.inverse_sum;
  }
  return place;
}

}  // namespace dino_d2
