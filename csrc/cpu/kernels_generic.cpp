// SPDX-License-Identifier: Apache-2.0
// The kernels for any processor: 16-byte vectors, which are SSE2 on x86-64 and NEON on 64-bit ARM.
#define DINO_D2_VECTOR_BYTES 16
#define DINO_D2_KERNELS kernels_generic
#define DINO_D2_KERNELS_NAME "generic"
#include "kernels_impl.h"
