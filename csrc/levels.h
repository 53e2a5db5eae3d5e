// SPDX-License-Identifier: Apache-2.0
// The contents of spatial_shapes and level_start_index: whether the levels lie inside value, one after the other.
#pragma once
#include "cpu/kernels.h"

namespace dino_d2 {

inline bool is_level_size(int64_t h, int64_t w) {
  // The ranges of the kernels' float and int32 arithmetic.
  const int64_t side = int64_t{1} << 23, area = int64_t{1} << 31;
  return h >= 1 && w >= 1 && h < side && w < side && h * w < area;
}

// The first level that has no size, overlaps the level before it or reaches past value; -1 where all levels fit.
inline int64_t first_bad_level(const Sizes& s) {
  int64_t end = 0;
  for (int64_t l = 0; l < s.levels; l++) {
    const int64_t h = s.shapes[2 * l], w = s.shapes[2 * l + 1], start = s.starts[l];
    // Subtracted rather than added: start is the caller's number, and start + h * w could overflow.
    if (!is_level_size(h, w) || start < end || start > s.tokens - h * w) return l;
    end = start + h * w;
  }
  return -1;
}

}  // namespace dino_d2
