// SPDX-License-Identifier: Apache-2.0
// Where to sample and with what weight, for one instruction set: corners of vectors of points, and the reader that converts
// locations and weights of either form and any dtype to the compute type.
// Included by kernels_impl.h, inside its unnamed namespace.

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
DINO_D2_INLINE void find_corners(F<C> x, F<C> y, F<C> width, F<C> height, I<C> (&index)[4], I<C> (&inside)[4], F<C>& fx,
                                 F<C>& fy) {
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
