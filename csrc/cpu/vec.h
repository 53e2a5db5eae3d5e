// SPDX-License-Identifier: Apache-2.0
// Vectors of DINO_D2_VECTOR_BYTES bytes on the vector extension of GCC and Clang. Included once per instruction set,
// inside an unnamed namespace: nothing here may be shared between the sets.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define DINO_D2_INLINE inline __attribute__((always_inline))

namespace {

constexpr int kVectorBytes = DINO_D2_VECTOR_BYTES;

struct half_t {
  uint16_t bits;
};
struct bfloat16_t {
  uint16_t bits;
};

// Sums are kept in float32, for float64 in float64.
template <typename T> struct compute {
  using type = float;
};
template <> struct compute<double> {
  using type = double;
};

template <typename C> struct compute_index {
  using type = int32_t;
};  // an integer of the same size
template <> struct compute_index<double> {
  using type = int64_t;
};
template <int n> struct constant {
  static constexpr int value = n;
};

template <typename C> struct vec;
template <> struct vec<float> {
  static constexpr int N = kVectorBytes / 4;
  typedef float F __attribute__((vector_size(kVectorBytes)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
};
template <> struct vec<double> {
  static constexpr int N = kVectorBytes / 8;
  typedef double F __attribute__((vector_size(kVectorBytes)));
  typedef int64_t I __attribute__((vector_size(kVectorBytes)));
};
using vfloat = vec<float>::F;
using vint = vec<float>::I;
using vdouble = vec<double>::F;

template <typename V, typename T> DINO_D2_INLINE V load_bits(const T* p) {
  V v;
  memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V, typename T> DINO_D2_INLINE void store_bits(T* p, V v) { memcpy(p, &v, sizeof(V)); }

// ---- one vector of elements of any dtype, as the compute type ----
DINO_D2_INLINE vfloat load(const float* p) { return load_bits<vfloat>(p); }
DINO_D2_INLINE vdouble load(const double* p) { return load_bits<vdouble>(p); }
DINO_D2_INLINE void store(float* p, vfloat v) { store_bits(p, v); }
DINO_D2_INLINE void store(double* p, vdouble v) { store_bits(p, v); }

#if DINO_D2_VECTOR_BYTES == 64
DINO_D2_INLINE vfloat load(const half_t* p) {
  return (vfloat)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
DINO_D2_INLINE vfloat load(const bfloat16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
DINO_D2_INLINE void store(half_t* p, vfloat v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
DINO_D2_INLINE void store_narrowed(bfloat16_t* p, vint bits) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)bits));
}
#elif DINO_D2_VECTOR_BYTES == 32
DINO_D2_INLINE vfloat load(const half_t* p) {
  return (vfloat)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
DINO_D2_INLINE vfloat load(const bfloat16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (vfloat)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
}
DINO_D2_INLINE void store(half_t* p, vfloat v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
DINO_D2_INLINE void store_narrowed(bfloat16_t* p, vint bits) {
  for (int i = 0; i < vec<float>::N; i++) p[i].bits = static_cast<uint16_t>(bits[i]);
}
#else
DINO_D2_INLINE float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
DINO_D2_INLINE uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
DINO_D2_INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  // The exponent moves from bias 15 to bias 127 by one exact product, which is right for subnormals too.
  const float x = bits_to_float(magnitude << 13) * 0x1p112f;
  return bits_to_float(sign | float_to_bits(x));
}
DINO_D2_INLINE uint16_t float_to_half(float x) {
  const uint32_t bits = float_to_bits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {  // subnormal: the sum with 0.5 leaves the rounded mantissa in the low bits
    return static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}
DINO_D2_INLINE vfloat load(const half_t* p) {
  vfloat v;
  for (int i = 0; i < vec<float>::N; i++) v[i] = half_to_float(p[i].bits);
  return v;
}
DINO_D2_INLINE vfloat load(const bfloat16_t* p) {
  vfloat v;
  for (int i = 0; i < vec<float>::N; i++) v[i] = bits_to_float(static_cast<uint32_t>(p[i].bits) << 16);
  return v;
}
DINO_D2_INLINE void store(half_t* p, vfloat v) {
  for (int i = 0; i < vec<float>::N; i++) p[i].bits = float_to_half(v[i]);
}
DINO_D2_INLINE void store_narrowed(bfloat16_t* p, vint bits) {
  for (int i = 0; i < vec<float>::N; i++) p[i].bits = static_cast<uint16_t>(bits[i]);
}
#endif

DINO_D2_INLINE void store(bfloat16_t* p, vfloat v) {  // round to nearest even; a NaN stays one
  const vint bits = (vint)v;
  const vint rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  store_narrowed(p, (v == v) ? rounded : (vint)(bits >> 16 | 0x40));
}

// The first n lanes; the others are zero when read, untouched when written. Masks rather than a padded copy: a vector read
// from memory that was just written in smaller pieces waits for all of it to leave the store queue.
#if DINO_D2_VECTOR_BYTES == 64
DINO_D2_INLINE vfloat load_first(const float* p, int n) {
  return (vfloat)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
DINO_D2_INLINE vdouble load_first(const double* p, int n) {
  return (vdouble)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
DINO_D2_INLINE vfloat load_first(const half_t* p, int n) {
  return (vfloat)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p));
}
DINO_D2_INLINE vfloat load_first(const bfloat16_t* p, int n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
#else
template <typename T> DINO_D2_INLINE auto load_first(const T* p, int n) {
  T padded[vec<typename compute<T>::type>::N] = {};
  memcpy(padded, p, n * sizeof(T));
  return load(padded);
}
#endif
template <typename T, typename F> DINO_D2_INLINE void store_first(T* p, F v, int n) {
  T padded[vec<typename compute<T>::type>::N];
  store(padded, v);
  memcpy(p, padded, n * sizeof(T));
}

// ---- shuffles ----
#if DINO_D2_VECTOR_BYTES == 64
DINO_D2_INLINE vfloat even_lanes(vfloat a, vfloat b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
DINO_D2_INLINE vfloat odd_lanes(vfloat a, vfloat b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
DINO_D2_INLINE vdouble even_lanes(vdouble a, vdouble b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}
DINO_D2_INLINE vdouble odd_lanes(vdouble a, vdouble b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
#elif DINO_D2_VECTOR_BYTES == 32
DINO_D2_INLINE vfloat even_lanes(vfloat a, vfloat b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}
DINO_D2_INLINE vfloat odd_lanes(vfloat a, vfloat b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
DINO_D2_INLINE vdouble even_lanes(vdouble a, vdouble b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
DINO_D2_INLINE vdouble odd_lanes(vdouble a, vdouble b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#else
DINO_D2_INLINE vfloat even_lanes(vfloat a, vfloat b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
DINO_D2_INLINE vfloat odd_lanes(vfloat a, vfloat b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
DINO_D2_INLINE vdouble even_lanes(vdouble a, vdouble b) { return __builtin_shufflevector(a, b, 0, 2); }
DINO_D2_INLINE vdouble odd_lanes(vdouble a, vdouble b) { return __builtin_shufflevector(a, b, 1, 3); }
#endif

// Writes a[0], b[0], a[1], b[1], ...
template <typename C, typename F> DINO_D2_INLINE void interleave(C* out, F a, F b) {
  for (int i = 0; i < vec<C>::N; i++) {
    out[2 * i] = a[i];
    out[2 * i + 1] = b[i];
  }
}

// Lane i of the result is the sum of all lanes of rows[i]. Destroys rows.
template <typename F, int N = sizeof(F) / sizeof(F{}[0])> DINO_D2_INLINE F sum_each(F* rows) {
#pragma GCC unroll 8
  for (int n = N; n > 1; n /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; i++) {
      rows[i] = even_lanes(rows[2 * i], rows[2 * i + 1]) + odd_lanes(rows[2 * i], rows[2 * i + 1]);
    }
  }
  return rows[0];
}

template <typename F> DINO_D2_INLINE auto sum_lanes(F v) {
  constexpr int N = sizeof(F) / sizeof(v[0]);
#pragma GCC unroll 4
  for (int n = N; n > 1; n /= 2) v = even_lanes(v, v) + odd_lanes(v, v);
  return v[0];
}
template <typename F> DINO_D2_INLINE auto max_lanes(F v) {
  constexpr int N = sizeof(F) / sizeof(v[0]);
#pragma GCC unroll 4
  for (int n = N; n > 1; n /= 2) {
    const F a = even_lanes(v, v), b = odd_lanes(v, v);
    v = a > b ? a : b;
  }
  return v[0];
}

// ---- exp for arguments <= 0 (softmax): 2^n * p(r), |r| <= ln(2) / 2; relative error below 2e-7 ----
DINO_D2_INLINE vfloat exp_nonpositive(vfloat x) {
  const vfloat low = vfloat{} - 87.0f;
  const vfloat clamped = x > low ? x : low;
  const vfloat scaled = clamped * 1.44269504088896341f - 0.5f;
  const vint n = __builtin_convertvector(scaled, vint);  // truncation of a negative number: rounds to nearest
  const vfloat nf = __builtin_convertvector(n, vfloat);
  vfloat r = clamped - nf * 0.693359375f;
  r = r + nf * 2.12194440e-4f;
  vfloat p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const vfloat result = p * (vfloat)((n + 127) << 23);
  return x == x ? (x < low ? vfloat{} : result) : x;
}
DINO_D2_INLINE vdouble exp_nonpositive(vdouble x) {
  for (int i = 0; i < vec<double>::N; i++) x[i] = exp(x[i]);
  return x;
}

// Copies a few values. The empty statement keeps the compiler from calling memcpy, whose call costs more than such a copy.
template <typename T> DINO_D2_INLINE void copy_few(T* out, const T* in, int64_t n) {
  constexpr int64_t step = 16 / sizeof(T);
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    memcpy(out + i, in + i, 16);
    __asm__ volatile("");
  }
  for (; i < n; i++) {
    out[i] = in[i];
    __asm__ volatile("");
  }
}

// Temporary memory of one kernel call.
template <typename T> struct Scratch {
  T* data;
  explicit Scratch(int64_t n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + kVectorBytes + 63) / 64 * 64;
    data = static_cast<T*>(aligned_alloc(64, bytes));
    if (data == nullptr) abort();  // out of memory: nothing can be reported from here
    memset(data, 0, bytes);
  }
  ~Scratch() { free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace
