// SPDX-License-Identifier: Apache-2.0
// The backward pass of one (batch, head, level). These triples own disjoint parts of all three gradients: the rows of
// their level and channels of their head in grad_value, their own points in the others. So no locks are needed, every
// sum is in the order of the queries, and there are B * M * L items to share among the cores even at batch 1.
// Included by kernels_impl.h, inside its unnamed namespace.

// The rows of value and grad_value of one item: those of its level and head, `stride` elements apart.
template <typename T> struct LevelRows {
  using C = typename compute<T>::type;
  const T* value;
  int64_t value_stride;
  C* grad;  // sums in the compute type
  int64_t grad_stride;
};

// Sub-block of up to N points (one vector lane each): scatters into grad rows and leaves the products of grad_output
// with the corners' values, one vector per (corner, point), in `products`.
template <int NV, bool partial, bool first, typename T, typename C>
DINO_D2_INLINE void scatter_points(const T* value, int64_t value_stride, const T* zeros, C* grad, int64_t grad_stride,
                                   C* dump, const T* grad_output, int64_t query_stride, int64_t first_point,
                                   int64_t points, int count, const typename vec<C>::I* index, const F<C>* weight,
                                   F<C> (*products)[vec<C>::N], int lanes) {
  constexpr int N = vec<C>::N;
  const auto* rows = reinterpret_cast<const typename compute_index<C>::type*>(index);
  const C* weights = reinterpret_cast<const C*>(weight);
  F<C> go[NV];
  int64_t query = first_point / points, next = (query + 1) * points - first_point;
  for (int i = 0; i < count; i++) {
    if (i == 0 || i == next) {
      if (i == next) {
        query++;
        next += points;
      }
      const T* g = grad_output + query * query_stride;
      for (int v = 0; v < NV; v++) go[v] = partial ? load_first(g, lanes) : load(g + v * N);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const int64_t row = rows[c * N + i];
      const T* x = row < 0 ? zeros : value + row * value_stride;
      C* d = row < 0 ? dump : grad + row * grad_stride;
      const F<C> w = weights[c * N + i] - F<C>{};
      F<C> product = {};
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        product += (partial ? load_first(x, lanes) : load(x + v * N)) * go[v];
        if (partial) store_first(d, load_first(d, lanes) + w * go[v], lanes);
        else store(d + v * N, load(d + v * N) + w * go[v]);
      }
      products[c][i] = first ? product : products[c][i] + product;
    }
  }
}

template <typename T> void backward_item(const Backward& p, int64_t item, const LevelRows<T>& rows) {
  using C = typename compute<T>::type;
  constexpr int N = vec<C>::N;
  const Sizes& s = p.sizes;
  const int64_t level = item % s.levels, head = item / s.levels % s.heads, batch = item / s.levels / s.heads;
  const int64_t row = s.heads * s.channels, n = s.levels * s.points;
  const C width = static_cast<C>(s.shapes[2 * level + 1]), height = static_cast<C>(s.shapes[2 * level]);
  const T* grad_output = static_cast<const T*>(p.grad_output) + batch * s.queries * row + head * s.channels;
  // First point of query 0; from query to query M * L * P points on.
  const int64_t first = (batch * s.queries * s.heads + head) * n + level * s.points, step = s.heads * n;
  C* locations = static_cast<C*>(p.locations) + 2 * first;
  C* weights = static_cast<C*>(p.weights) + first;

  // N queries at a time: their N * P points fill whole vectors. The next ones are copied before these are worked on, so
  // that the small copies have left the store queue when they are read as vectors.
  const int64_t block = N * s.points;
  Scratch<C> all_xy(4 * block), all_a(2 * block), dump(s.channels);
  Scratch<T> zeros(s.channels);
  F<C> products[4][N] = {};
  auto fetch = [&](int64_t q) __attribute__((always_inline)) {
    const int64_t half = q / N % 2, end = q + N < s.queries ? q + N : s.queries;
    C *xy = all_xy.data + 2 * half * block, *a = all_a.data + half * block;
    for (; q < end; q++, xy += 2 * s.points, a += s.points) {
      copy_few(xy, locations + 2 * q * step, 2 * s.points);
      copy_few(a, weights + q * step, s.points);
    }
  };
  fetch(0);
  for (int64_t q = 0; q < s.queries; q += N) {
    const int64_t queries = s.queries - q < N ? s.queries - q : N, count = queries * s.points;
    C *xy = all_xy.data + 2 * (q / N % 2) * block, *a = all_a.data + q / N % 2 * block;
    if (q + N < s.queries) fetch(q + N);
    for (int64_t i = 0; i < count; i += N) {
      const F<C> even = load(xy + 2 * i), odd = load(xy + 2 * i + N), attention = load(a + i);
      I<C> index[4], inside[4];
      F<C> fx, fy, w[4];
      find_corners<C>(even_lanes(even, odd), odd_lanes(even, odd), F<C>{} + width, F<C>{} + height, index, inside, fx,
                      fy);
      corner_weights<C>(fx, fy, attention, w);
      for (int c = 0; c < 4; c++) index[c] = inside[c] ? index[c] : I<C>{} - 1;
      const int lanes = count - i < N ? static_cast<int>(count - i) : N;
      const T* go = grad_output + q * row;
      int64_t c = 0;
      auto scatter = [&](auto vectors, auto partial, auto is_first, int tail) __attribute__((always_inline)) {
        scatter_points<vectors.value, partial.value, is_first.value>(rows.value + c, rows.value_stride, zeros.data,
                                                                     rows.grad + c, rows.grad_stride, dump.data, go + c,
                                                                     row, i, s.points, lanes, index, w, products, tail);
        c += vectors.value * N;
      };
      // The first block of channels sets the products, the others add to them.
      if (s.channels >= 4 * N) scatter(constant<4>{}, constant<0>{}, constant<1>{}, 0);
      else if (s.channels >= 2 * N) scatter(constant<2>{}, constant<0>{}, constant<1>{}, 0);
      else if (s.channels >= N) scatter(constant<1>{}, constant<0>{}, constant<1>{}, 0);
      else scatter(constant<1>{}, constant<1>{}, constant<1>{}, static_cast<int>(s.channels));
      while (c + N <= s.channels) scatter(constant<1>{}, constant<0>{}, constant<0>{}, 0);
      if (c < s.channels) scatter(constant<1>{}, constant<1>{}, constant<0>{}, static_cast<int>(s.channels - c));

      F<C> d[4];
      for (int k = 0; k < 4; k++) d[k] = sum_each(products[k]);
      const F<C> top = d[0] + fx * (d[1] - d[0]), bottom = d[2] + fx * (d[3] - d[2]);
      const F<C> dx = (d[1] - d[0]) + fy * ((d[3] - d[2]) - (d[1] - d[0]));
      store(a + i, top + fy * (bottom - top));
      interleave(xy + 2 * i, dx * attention * width, (bottom - top) * attention * height);
    }
    for (int64_t i = 0; i < queries; i++) {
      copy_few(locations + 2 * (q + i) * step, xy + 2 * i * s.points, 2 * s.points);
      copy_few(weights + (q + i) * step, a + i * s.points, s.points);
    }
  }
}

template <typename T> void backward_range(const Backward& p, int64_t begin, int64_t end) {
  using C = typename compute<T>::type;
  const Sizes& s = p.sizes;
  const int64_t row = s.heads * s.channels;
  for (int64_t item = begin; item < end; item++) {
    const int64_t level = item % s.levels, head = item / s.levels % s.heads, batch = item / s.levels / s.heads;
    const int64_t first = (batch * s.tokens + s.starts[level]) * row + head * s.channels;
    const int64_t tokens = s.shapes[2 * level] * s.shapes[2 * level + 1];
    const T* value = static_cast<const T*>(p.value) + first;
    T* out = static_cast<T*>(p.grad_value) + first;
    const bool pack = worth_packing(s, s.queries, s.points, tokens);
    Scratch<T> packed(pack ? tokens * s.channels : 0);
    LevelRows<T> rows{value, row, nullptr, s.channels};
    if (pack) {
      copy_rows(packed.data, s.channels, value, row, tokens, s.channels);
      rows.value = packed.data;
      rows.value_stride = s.channels;
    }
    if constexpr (sizeof(T) == sizeof(C)) {
      if (!pack) {  // sums go into grad_value itself
        for (int64_t t = 0; t < tokens; t++) memset(out + t * row, 0, s.channels * sizeof(T));
        rows.grad = out;
        rows.grad_stride = row;
        backward_item<T>(p, item, rows);
        continue;
      }
    }
    Scratch<C> sums(tokens * s.channels);
    rows.grad = sums.data;
    backward_item<T>(p, item, rows);
    for (int64_t t = 0; t < tokens; t++) {  // rounded once, at the end
      const C* in = sums.data + t * s.channels;
      int64_t c = 0;
      for (; c + vec<C>::N <= s.channels; c += vec<C>::N) store(out + t * row + c, load(in + c));
      if (c < s.channels) {
        const int n = static_cast<int>(s.channels - c);
        store_first(out + t * row + c, load_first(in + c, n), n);
      }
    }
  }
}
