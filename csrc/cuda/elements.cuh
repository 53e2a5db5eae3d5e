// SPDX-License-Identifier: Apache-2.0
// Elements of the four dtypes as float32 or float64, one or 16 bytes at a time.
#pragma once
#include <stdint.h>

#include "cpu/kernels.h"

#ifndef DINO_D2_EMULATED_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace dino_d2 {

template <typename T> struct compute_of {
  using type = float;
};
template <> struct compute_of<double> {
  using type = double;
};

template <typename C, typename T> __device__ inline C to_compute(T x) { return static_cast<C>(x); }
template <> __device__ inline float to_compute<float, __half>(__half x) { return __half2float(x); }
template <> __device__ inline float to_compute<float, __nv_bfloat16>(__nv_bfloat16 x) { return __bfloat162float(x); }
template <> __device__ inline double to_compute<double, __half>(__half x) { return __half2float(x); }
template <> __device__ inline double to_compute<double, __nv_bfloat16>(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T, typename C> __device__ inline T from_compute(C x) { return static_cast<T>(x); }
template <> __device__ inline __half from_compute<__half, float>(float x) { return __float2half_rn(x); }
template <> __device__ inline __half from_compute<__half, double>(double x) {
  return __float2half_rn(static_cast<float>(x));
}
template <> __device__ inline __nv_bfloat16 from_compute<__nv_bfloat16, float>(float x) {
  return __float2bfloat16_rn(x);
}
template <> __device__ inline __nv_bfloat16 from_compute<__nv_bfloat16, double>(double x) {
  return __float2bfloat16_rn(static_cast<float>(x));
}

// The dtype is the same for a whole launch, so that no warp diverges here.
template <typename C> __device__ inline C read_element(const TensorView& t, int64_t i) {
  switch (t.type) {
    case DType::f32: return to_compute<C>(static_cast<const float*>(t.data)[i]);
    case DType::f64: return to_compute<C>(static_cast<const double*>(t.data)[i]);
    case DType::f16: return to_compute<C>(static_cast<const __half*>(t.data)[i]);
    default: return to_compute<C>(static_cast<const __nv_bfloat16*>(t.data)[i]);
  }
}
template <typename C> __device__ inline void write_element(void* data, DType type, int64_t i, C x) {
  switch (type) {
    case DType::f32: static_cast<float*>(data)[i] = from_compute<float>(x); return;
    case DType::f64: static_cast<double*>(data)[i] = from_compute<double>(x); return;
    case DType::f16: static_cast<__half*>(data)[i] = from_compute<__half>(x); return;
    default: static_cast<__nv_bfloat16*>(data)[i] = from_compute<__nv_bfloat16>(x); return;
  }
}

// V elements with as few instructions as their size allows. V * sizeof(T) is 16 (then the address is a multiple of 16),
// or V is 1.
template <typename T, int V> struct alignas(V * sizeof(T)) Pack {
  T e[V];
};
template <int V, typename T, typename C> __device__ inline void load_pack(const T* p, C (&out)[V]) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(p);
#pragma unroll
  for (int v = 0; v < V; v++) out[v] = to_compute<C>(pack.e[v]);
}
template <int V, typename T, typename C> __device__ inline void store_pack(T* p, const C (&in)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; v++) pack.e[v] = from_compute<T>(in[v]);
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

// Adds V values to memory. Four floats go in one instruction from sm_90 on.
template <int V> __device__ inline void atomic_add_pack(float* p, const float (&x)[V]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kStep = V % 4 == 0 ? 4 : 1;
#else
  constexpr int kStep = 1;
#endif
#pragma unroll
  for (int v = 0; v < V; v += kStep) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (kStep == 4) {
      atomicAdd(reinterpret_cast<float4*>(p + v), make_float4(x[v], x[v + 1], x[v + 2], x[v + 3]));
      continue;
    }
#endif
    atomicAdd(p + v, x[v]);
  }
}
template <int V> __device__ inline void atomic_add_pack(double* p, const double (&x)[V]) {
#pragma unroll
  for (int v = 0; v < V; v++) atomicAdd(p + v, x[v]);
}

}  // namespace dino_d2
