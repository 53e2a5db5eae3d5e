// SPDX-License-Identifier: Apache-2.0
// Just enough of CUDA to run the op's kernels on a CPU, one fiber per thread: it proves the index arithmetic, the use of
// shared memory between synchronisation points and the sums over lanes on machines without a GPU. It proves nothing about
// speed or about the compiler for the device.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <cmath>
#include <functional>
#include <vector>

#define DINO_D2_EMULATED_CUDA
#define __global__
#define __device__
#define __host__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))

using std::exp;
using std::floor;

struct int4 { int x, y, z, w; };
struct dim3 { unsigned x, y, z; };
inline dim3 threadIdx, blockIdx, blockDim;

struct __half { uint16_t bits; };  // named by the kernels, not tested here
inline float __half2float(__half) { abort(); }
inline __half __float2half_rn(float) { abort(); }
struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

namespace emulation {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done;
  long synchronisations;
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline int current;
inline double lane_values[1024];
inline const std::function<void()>* kernel;

inline void body() {
  (*kernel)();
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

// Waits until every thread that still runs has come here too.
inline void synchronise() {
  fibers[current].synchronisations++;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void launch(int64_t blocks, int threads, const std::function<void()>& work) {
  kernel = &work;
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  for (int64_t block = 0; block < blocks; block++) {
    fibers.assign(threads, {});
    for (Fiber& fiber : fibers) {
      fiber.stack.resize(1 << 16);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, body, 0);
    }
    for (bool running = true; running;) {
      running = false;
      for (current = 0; current < threads; current++) {
        if (fibers[current].done) continue;
        threadIdx = {static_cast<unsigned>(current), 0, 0};
        blockIdx = {static_cast<unsigned>(block), 0, 0};
        swapcontext(&scheduler, &fibers[current].context);
        running = running || !fibers[current].done;
      }
      long meeting = -1;  // all running threads must be at the same synchronisation
      for (const Fiber& fiber : fibers) {
        if (fiber.done) continue;
        if (meeting >= 0 && fiber.synchronisations != meeting) {
          fprintf(stderr, "threads of one block wait at different synchronisations\n");
          abort();
        }
        meeting = fiber.synchronisations;
      }
    }
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::synchronise(); }
inline void __syncwarp() { emulation::synchronise(); }
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int other, int width) {
  if (mask != 0xffffffffu || other >= width) abort();
  const int thread = emulation::current;
  emulation::lane_values[thread] = static_cast<double>(value);
  emulation::synchronise();
  const T result = static_cast<T>(emulation::lane_values[thread ^ other]);
  emulation::synchronise();
  return result;
}
template <typename T> T atomicAdd(T* p, T x) {
  const T old = *p;
  *p += x;
  return old;
}
