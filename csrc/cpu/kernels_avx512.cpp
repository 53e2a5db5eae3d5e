// SPDX-License-Identifier: Apache-2.0
// The kernels for processors with AVX-512 (F, BW, DQ, VL). Chosen at run time; see kernels_for_this_cpu in ../ms_deform_attn.cpp.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#endif
#define DINO_D2_VECTOR_BYTES 64
#define DINO_D2_KERNELS kernels_avx512
#define DINO_D2_KERNELS_NAME "avx512"
#include "kernels_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
