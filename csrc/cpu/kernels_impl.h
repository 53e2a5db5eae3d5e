// SPDX-License-Identifier: Apache-2.0
// Multi-scale deformable attention for one instruction set. The including file sets DINO_D2_VECTOR_BYTES,
// DINO_D2_KERNELS (the name of the table at the end) and the compiler's target.
//
// The forward pass works on one (query, head) at a time: positions, corner addresses and corner weights of its L * P
// points are computed with one point per vector lane; then the rows of D channels are summed with one channel per lane.
// A corner outside its map points at a row of zeros, so that no branch depends on the data and a NaN location gives NaN,
// as it does with grid_sample.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace {

using namespace dino_d2;

#include "points_impl.h"

// ---- forward ----

// Distances in elements from the value of a (batch, head) to the rows of the corners; those outside get `outside`.
DINO_D2_INLINE void store_offsets(int64_t* out, vint index, vint inside, const int64_t* start, int64_t stride,
                                  int64_t outside) {
#if DINO_D2_VECTOR_BYTES == 64
  const __m512i step = _mm512_set1_epi64(stride), zero = _mm512_set1_epi64(outside);
  const __mmask16 valid = _mm512_movepi32_mask((__m512i)inside);
  const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256((__m512i)index));
  const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((__m512i)index, 1));
  const __m512i a = _mm512_mullo_epi64(_mm512_add_epi64(low, _mm512_loadu_si512(start)), step);
  const __m512i b = _mm512_mullo_epi64(_mm512_add_epi64(high, _mm512_loadu_si512(start + 8)), step);
  _mm512_storeu_si512(out, _mm512_mask_blend_epi64(static_cast<__mmask8>(valid), zero, a));
  _mm512_storeu_si512(out + 8, _mm512_mask_blend_epi64(static_cast<__mmask8>(valid >> 8), zero, b));
#else
  for (int i = 0; i < vec<float>::N; i++) out[i] = inside[i] ? (start[i] + index[i]) * stride : outside;
#endif
}
DINO_D2_INLINE void store_offsets(int64_t* out, vec<double>::I index, vec<double>::I inside, const int64_t* start,
                                  int64_t stride, int64_t outside) {
  for (int i = 0; i < vec<double>::N; i++) out[i] = inside[i] ? (start[i] + index[i]) * stride : outside;
}

template <typename C> struct Gather {  // of one (query, head)
  Scratch<int64_t> offset[4];
  Scratch<C> weight[4];
  explicit Gather(int64_t n)
      : offset{Scratch<int64_t>(n), Scratch<int64_t>(n), Scratch<int64_t>(n), Scratch<int64_t>(n)},
        weight{Scratch<C>(n), Scratch<C>(n), Scratch<C>(n), Scratch<C>(n)} {}

  DINO_D2_INLINE void prepare(const C* xy, const C* a, int64_t n, const LevelTable<C>& table, int64_t stride,
                              int64_t outside) {
    constexpr int N = vec<C>::N;
    for (int64_t i = 0; i < n; i += N) {
      const F<C> first = load(xy + 2 * i), second = load(xy + 2 * i + N);
      I<C> index[4], inside[4];
      F<C> fx, fy, w[4];
      find_corners<C>(even_lanes(first, second), odd_lanes(first, second), load(table.width.data + i),
                      load(table.height.data + i), index, inside, fx, fy);
      corner_weights<C>(fx, fy, load(a + i), w);
      for (int c = 0; c < 4; c++) {
        store_offsets(offset[c].data + i, index[c], inside[c], table.start.data + i, stride, outside);
        store(weight[c].data + i, w[c]);
      }
    }
  }
};

// NV vectors of channels, or (partial) the first `lanes` of one. Four sums, so that no addition waits for the last one.
template <int NV, bool partial, typename T, typename C>
DINO_D2_INLINE void sum_rows(const T* base, const Gather<C>& g, int64_t n, T* out, int lanes) {
  constexpr int N = vec<C>::N;
  constexpr int kSums = NV * 4 <= 8 || kVectorBytes == 64 ? 4 : 2;
  F<C> sum[kSums][NV] = {};
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const T* row = base + g.offset[c].data[i];
      const F<C> w = g.weight[c].data[i] - F<C>{};
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        const F<C> x = partial ? load_first(row, lanes) : load(row + v * N);
        sum[c % kSums][v] += x * w;
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) {
    F<C> total = sum[0][v] + sum[1][v];
    if (kSums == 4) total += sum[2 % kSums][v] + sum[3 % kSums][v];
    if (partial) store_first(out, total, lanes);
    else store(out + v * N, total);
  }
}

// The rows of one head lie M * D elements apart, so that they share a few sets of the cache. A packed copy uses all of it,
// which makes the encoder's forward pass much faster. The copy does not pay off where few queries sample a map.
DINO_D2_INLINE bool worth_packing(const Sizes& s, int64_t queries, int64_t points, int64_t tokens) {
  return s.heads > 1 && queries * points >= tokens;  // each point reads four rows
}
template <typename T>
DINO_D2_INLINE void copy_rows(T* out, int64_t out_stride, const T* in, int64_t in_stride, int64_t rows, int64_t n) {
  for (int64_t i = 0; i < rows; i++) copy_few(out + i * out_stride, in + i * in_stride, n);
}

// One head at a time, so that its rows stay in the cache.
template <typename T> void forward_range(const Forward& p, int64_t begin, int64_t end) {
  using C = typename compute<T>::type;
  constexpr int N = vec<C>::N;
  const Sizes& s = p.sizes;
  const int64_t n = s.levels * s.points, row = s.heads * s.channels;
  PointReader<C> reader(s, p.points);
  LevelTable<C> table(n);
  for (int64_t i = 0; i < n; i++) table.set(i, s, i / s.points);
  Gather<C> gathers[2] = {Gather<C>(padded<C>(n)), Gather<C>(padded<C>(n))};
  Scratch<T> zeros(s.channels);
  const bool pack = worth_packing(s, end - begin < s.queries ? end - begin : s.queries, n, s.tokens);
  Scratch<T> packed(pack ? s.tokens * s.channels : 0);
  for (int64_t first = begin, last; first < end; first = last) {
    const int64_t group = first / s.queries, batch = group / s.heads, head = group % s.heads;
    last = (group + 1) * s.queries < end ? (group + 1) * s.queries : end;
    const T* base = static_cast<const T*>(p.value) + batch * s.tokens * row + head * s.channels;
    int64_t stride = row;
    if (pack) {
      copy_rows(packed.data, s.channels, base, row, s.tokens, s.channels);
      base = packed.data;
      stride = s.channels;
    }
    int64_t bq = batch * s.queries + first - group * s.queries;
    const int64_t bq_end = bq + last - first;
    T* out = static_cast<T*>(p.output) + bq * row + head * s.channels;
    auto prepare = [&](int64_t at, Gather<C>& g) __attribute__((always_inline)) {
      const C *xy, *a;
      reader.read(at, head, xy, a);
      g.prepare(xy, a, n, table, stride, zeros.data - base);
    };
    prepare(bq, gathers[bq & 1]);
    for (; bq < bq_end; bq++, out += row) {
      // The addresses of the next query are ready before the rows of this one are read: the processor can fetch ahead.
      if (bq + 1 < bq_end) prepare(bq + 1, gathers[(bq + 1) & 1]);
      const Gather<C>& gather = gathers[bq & 1];
      int64_t c = 0;
      for (; c + 4 * N <= s.channels; c += 4 * N) sum_rows<4, false>(base + c, gather, n, out + c, 0);
      for (; c + 2 * N <= s.channels; c += 2 * N) sum_rows<2, false>(base + c, gather, n, out + c, 0);
      for (; c + N <= s.channels; c += N) sum_rows<1, false>(base + c, gather, n, out + c, 0);
      if (c < s.channels) sum_rows<1, true>(base + c, gather, n, out + c, static_cast<int>(s.channels - c));
    }
  }
}

template <typename C> void expand_range(const Expand& p, int64_t begin, int64_t end) {
  const Sizes& s = p.sizes;
  const int64_t n = s.levels * s.points;
  PointReader<C> reader(s, p.points);
  for (int64_t bq = begin; bq < end; bq++) {
    for (int64_t head = 0; head < s.heads; head++) {
      const C *xy, *a;
      reader.read(bq, head, xy, a);
      const int64_t row = (bq * s.heads + head) * n;
      copy_few(static_cast<C*>(p.locations) + 2 * row, xy, 2 * n);
      copy_few(static_cast<C*>(p.weights) + row, a, n);
    }
  }
}

template <typename C> void fused_finish_range(const FusedFinish& p, int64_t begin, int64_t end) {
  const Sizes& s = p.sizes;
  const int64_t n = s.levels * s.points, dim = p.points.reference_dim;
  PointReader<C> reader(s, p.points);
  Scratch<C> offsets(2 * padded<C>(n));
  for (int64_t bq = begin; bq < end; bq++) {
    C* reference_grad = static_cast<C*>(p.reference_grad) + bq * s.levels * dim;
    for (int64_t i = 0; i < s.levels * dim; i++) reference_grad[i] = 0;
    for (int64_t head = 0; head < s.heads; head++) {
      const int64_t row = (bq * s.heads + head) * n;
      const C *xy, *a;
      reader.read(bq, head, xy, a);
      if (dim == 4) convert_row(p.points.locations, 2 * row, 2 * n, offsets.data);
      C* grad_xy = static_cast<C*>(p.offsets_grad) + 2 * row;
      C* grad_a = static_cast<C*>(p.logits_grad) + row;
      C mean = 0;
      for (int64_t i = 0; i < n; i++) mean += grad_a[i] * a[i];
      for (int64_t i = 0; i < n; i++) grad_a[i] = (grad_a[i] - mean) * a[i];
      for (int64_t l = 0; l < s.levels; l++) {
        C* r = reference_grad + l * dim;
        for (int64_t j = 2 * l * s.points; j < 2 * (l + 1) * s.points; j += 2) {
          r[0] += grad_xy[j];
          r[1] += grad_xy[j + 1];
          if (dim == 4) {
            r[2] += grad_xy[j] * offsets.data[j];
            r[3] += grad_xy[j + 1] * offsets.data[j + 1];
          }
        }
      }
      for (int64_t j = 0; j < 2 * n; j++) grad_xy[j] *= reader.scale.data[j];
    }
    if (dim == 4) {
      const C half = C(0.5) / static_cast<C>(s.points);
      for (int64_t l = 0; l < s.levels; l++) {
        reference_grad[l * 4 + 2] *= half;
        reference_grad[l * 4 + 3] *= half;
      }
    }
  }
}

#include "backward_impl.h"

void forward(const Forward& p, int64_t begin, int64_t end) {
  switch (p.type) {
    case DType::f32: return forward_range<float>(p, begin, end);
    case DType::f64: return forward_range<double>(p, begin, end);
    case DType::f16: return forward_range<half_t>(p, begin, end);
    case DType::bf16: return forward_range<bfloat16_t>(p, begin, end);
  }
}
void expand(const Expand& p, int64_t begin, int64_t end) {
  p.is_double ? expand_range<double>(p, begin, end) : expand_range<float>(p, begin, end);
}
void backward(const Backward& p, int64_t begin, int64_t end) {
  switch (p.type) {
    case DType::f32: return backward_range<float>(p, begin, end);
    case DType::f64: return backward_range<double>(p, begin, end);
    case DType::f16: return backward_range<half_t>(p, begin, end);
    case DType::bf16: return backward_range<bfloat16_t>(p, begin, end);
  }
}
void fused_finish(const FusedFinish& p, int64_t begin, int64_t end) {
  p.is_double ? fused_finish_range<double>(p, begin, end) : fused_finish_range<float>(p, begin, end);
}

}  // namespace

namespace dino_d2 {
const Kernels DINO_D2_KERNELS = {DINO_D2_KERNELS_NAME, forward, expand, backward, fused_finish};
}  // namespace dino_d2
