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

template <typename C> using F = typename vec<C>::F;
template <typename C> using I = typename vec<C>::I;

template <typename C> int64_t padded(int64_t n) { return (n + vec<C>::N - 1) / vec<C>::N * vec<C>::N; }

// ---- where: corners of one vector of points ----

// Sizes of the level each point belongs to, one entry per point; zero sizes in the padding.
template <typename C> struct LevelTable {
  Scratch<C> width, height;
  Scratch<int64_t> start;  // first token
  explicit LevelTable(int64_t n) : width(padded<C>(n)), height(padded<C>(n)), start(padded<C>(n)) {}
  void set(int64_t i, const Sizes& s, int64_t level) {
    height.data[i] = static_cast<C>(s.shapes[2 * level]);
    width.data[i] = static_cast<C>(s.shapes[2 * level + 1]);
    start.data[i] = s.starts[level];
  }
};

// Corners in the order (y0, x0), (y0, x1), (y1, x0), (y1, x1): their token inside the level, -1 in `inside` where they
// are on the map, and the distance of the point from corner 0.
// Positions in pixels of a level: x * W - 0.5. Values far away are clamped before the conversion to an integer; x - x is
// 0 for a number and NaN for an infinite or NaN location, which makes the weights NaN.
template <typename C>
DINO_D2_INLINE void find_corners(F<C> x, F<C> y, F<C> width, F<C> height, I<C> (&index)[4], I<C> (&inside)[4],
                                 F<C>& fx, F<C>& fy) {
  x = x * width - C(0.5);
  y = y * height - C(0.5);
  const F<C> low = F<C>{} - C(2);
  F<C> cx = x > low ? x : low, cy = y > low ? y : low;
  cx = cx < width ? cx : width;
  cy = cy < height ? cy : height;
  I<C> x0 = __builtin_convertvector(cx, I<C>), y0 = __builtin_convertvector(cy, I<C>);
  x0 += (cx < __builtin_convertvector(x0, F<C>));  // truncation becomes floor: a true lane is -1
  y0 += (cy < __builtin_convertvector(y0, F<C>));
  fx = cx - __builtin_convertvector(x0, F<C>) + (x - x);
  fy = cy - __builtin_convertvector(y0, F<C>) + (y - y);
  const I<C> w = __builtin_convertvector(width, I<C>), h = __builtin_convertvector(height, I<C>);
  const I<C> x_in0 = (x0 >= 0) & (x0 < w), x_in1 = (x0 >= -1) & (x0 < w - 1);
  const I<C> y_in0 = (y0 >= 0) & (y0 < h), y_in1 = (y0 >= -1) & (y0 < h - 1);
  index[0] = y0 * w + x0;
  index[1] = index[0] + 1;
  index[2] = index[0] + w;
  index[3] = index[2] + 1;
  inside[0] = x_in0 & y_in0;
  inside[1] = x_in1 & y_in0;
  inside[2] = x_in0 & y_in1;
  inside[3] = x_in1 & y_in1;
}

template <typename C>
DINO_D2_INLINE void corner_weights(F<C> fx, F<C> fy, F<C> a, F<C> (&w)[4]) {
  const F<C> gx = C(1) - fx, gy = C(1) - fy;
  const F<C> top = gy * a, bottom = fy * a;
  w[0] = gx * top;
  w[1] = fx * top;
  w[2] = gx * bottom;
  w[3] = fx * bottom;
}

// ---- rows of locations and weights in the compute type, whatever their dtype ----
template <typename C, typename T> DINO_D2_INLINE void convert_values(C* out, const T* in, int64_t n) {
  using S = typename compute<T>::type;
  constexpr int N = vec<S>::N;
  for (int64_t i = 0; i < n; i += N) {
    const auto v = n - i < N ? load_first(in + i, static_cast<int>(n - i)) : load(in + i);
    if constexpr (sizeof(S) == sizeof(C)) {
      store(out + i, v);  // scratch memory reaches to the next vector border
    } else {
      for (int j = 0; j < N && i + j < n; j++) out[i + j] = static_cast<C>(v[j]);
    }
  }
}
template <typename C> DINO_D2_INLINE void convert_row(TensorView t, int64_t offset, int64_t n, C* out) {
  switch (t.type) {
    case DType::f32: return convert_values(out, static_cast<const float*>(t.data) + offset, n);
    case DType::f64: return convert_values(out, static_cast<const double*>(t.data) + offset, n);
    case DType::f16: return convert_values(out, static_cast<const half_t*>(t.data) + offset, n);
    case DType::bf16: return convert_values(out, static_cast<const bfloat16_t*>(t.data) + offset, n);
  }
}

// A pointer to n values in the compute type: the tensor itself where it has that type and may be read up to the next
// vector border, else a converted copy.
template <typename C>
DINO_D2_INLINE const C* row_of(TensorView t, int64_t offset, int64_t n, bool in_place, C* scratch) {
  const DType own = sizeof(C) == 4 ? DType::f32 : DType::f64;
  if (in_place && t.type == own) return static_cast<const C*>(t.data) + offset;
  convert_row(t, offset, n, scratch);
  return scratch;
}

// Locations and weights of one (batch, query, head); holds what they need.
template <typename C> struct PointReader {
  const Sizes& s;
  const Points& p;
  const int64_t n;  // points of one head: L * P
  const bool whole_vectors;
  Scratch<C> locations, weights;
  // Fused form: location = reference[at] + offset * scale, scale = factor (* reference[at + 2] for boxes). Two entries
  // (x, y) a point.
  Scratch<C> reference, factor, scale;
  Scratch<int32_t> at;

  PointReader(const Sizes& sizes, const Points& points)
      : s(sizes), p(points), n(sizes.levels * sizes.points), whole_vectors(n % vec<C>::N == 0),
        locations(2 * padded<C>(n)), weights(padded<C>(n)), reference(4 * sizes.levels + 2 * vec<C>::N),
        factor(2 * padded<C>(n)), scale(2 * padded<C>(n)), at(2 * padded<C>(n)) {
    for (int64_t i = 0; i < 2 * n; i++) {
      const int64_t level = i / 2 / s.points, y = i % 2;
      at.data[i] = static_cast<int32_t>(level * p.reference_dim + y);
      factor.data[i] = p.reference_dim == 2 ? C(1) / static_cast<C>(s.shapes[2 * level + 1 - y])
                                            : C(0.5) / static_cast<C>(s.points);
    }
  }

  // bq = batch * Q + query. Results may be read up to the next vector border.
  DINO_D2_INLINE void read(int64_t bq, int64_t head, const C*& xy, const C*& a) {
    const int64_t row = (bq * s.heads + head) * n;
    xy = row_of<C>(p.locations, row * 2, n * 2, whole_vectors, locations.data);
    a = row_of<C>(p.weights, row, n, whole_vectors, weights.data);
    if (p.reference_dim == 0) return;
    locate(bq, xy);
    softmax(a);
    xy = locations.data;
    a = weights.data;
  }

  DINO_D2_INLINE void locate(int64_t bq, const C* offsets) {
    const int64_t dim = p.reference_dim, count = s.levels * dim;
    const C* points = row_of<C>(p.reference, bq * count, count, true, reference.data);
    int64_t i = 0;
#if DINO_D2_VECTOR_BYTES == 64
    if constexpr (sizeof(C) == 4) {
      if (count <= 32) {  // the reference points of a query fit two registers
        const __m512 low = (__m512)load_first(points, count < 16 ? static_cast<int>(count) : 16);
        const __m512 high = (__m512)load_first(points + 16, count > 16 ? static_cast<int>(count - 16) : 0);
        for (; i + 16 <= 2 * n; i += 16) {
          const __m512i index = _mm512_load_si512(at.data + i);
          vfloat factors = load(factor.data + i);
          if (dim == 4) {
            const __m512i size_index = _mm512_add_epi32(index, _mm512_set1_epi32(2));
            factors *= (vfloat)_mm512_permutex2var_ps(low, size_index, high);
          }
          store(scale.data + i, factors);
          const vfloat centre = (vfloat)_mm512_permutex2var_ps(low, index, high);
          store(locations.data + i, centre + load(offsets + i) * factors);
        }
      }
    }
#elif DINO_D2_VECTOR_BYTES == 32
    if constexpr (sizeof(C) == 4) {
      for (; i + 8 <= 2 * n; i += 8) {
        const __m256i index = _mm256_load_si256(reinterpret_cast<const __m256i*>(at.data + i));
        vfloat factors = load(factor.data + i);
        if (dim == 4) factors *= (vfloat)_mm256_i32gather_ps(points + 2, index, 4);
        store(scale.data + i, factors);
        store(locations.data + i, (vfloat)_mm256_i32gather_ps(points, index, 4) + load(offsets + i) * factors);
      }
    }
#endif
    for (; i < 2 * n; i++) {
      const C* r = points + at.data[i];
      scale.data[i] = dim == 4 ? factor.data[i] * r[2] : factor.data[i];
      locations.data[i] = r[0] + offsets[i] * scale.data[i];
    }
  }

  DINO_D2_INLINE void softmax(const C* logits) {
    constexpr int N = vec<C>::N;
    C* out = weights.data;
    const int64_t whole = n / N * N, end = padded<C>(n);
    F<C> high = F<C>{} - C(INFINITY), tail = high;
    for (int64_t i = 0; i < whole; i += N) {
      const F<C> v = load(logits + i);
      high = v > high ? v : high;
    }
    if (whole < n) {
      tail = load_first(logits + whole, static_cast<int>(n - whole));
      for (int64_t i = n - whole; i < N; i++) tail[i] = -C(INFINITY);
      high = tail > high ? tail : high;
    }
    const C top = max_lanes(high);
    F<C> total = {};
    for (int64_t i = 0; i < end; i += N) {
      const F<C> e = exp_nonpositive((i < whole ? load(logits + i) : tail) - top);
      store(out + i, e);
      total += e;
    }
    const C inverse = C(1) / sum_lanes(total);
    for (int64_t i = 0; i < end; i += N) store(out + i, load(out + i) * inverse);
  }
};

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

// The rows of one head lie M * D elements apart, so that they share a few sets of the cache. Copied together they use all
// of it: the encoder's forward pass takes half the time (32 to 20 ms on one core, 800 x 1216, 4 levels). The copy is not
// worth it where few queries look at a map.
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
