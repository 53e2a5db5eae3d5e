// SPDX-License-Identifier: Apache-2.0
// The interface between the bindings and the kernels of one instruction set. Plain C types only: the kernel files are compiled
// for newer processors than the rest, so no inline code may be shared with them.
#pragma once
#include <stdint.h>

namespace dino_d2 {

enum class DType : int { f32, f64, f16, bf16 };

struct TensorView {
  const void* data;
  DType type;
};

// B batch, S tokens of all levels, Q queries, M heads, D channels per head, L levels, P points per level and head.
struct Sizes {
  int64_t batch, tokens, queries, heads, channels, levels, points;
  const int64_t* shapes;  // [L, 2] (H, W)
  const int64_t* starts;  // [L]
};

// Where to sample and with what weight. Plain: locations [B, Q, M, L, P, 2] and weights [B, Q, M, L, P].
// Fused (reference_dim 2 or 4): offsets and logits of the same shapes, reference points [B, Q, L, reference_dim].
struct Points {
  TensorView locations;
  TensorView weights;
  TensorView reference;
  int64_t reference_dim;  // 0: plain
};

struct Forward {
  Sizes sizes;
  Points points;
  DType type;         // of value and output
  const void* value;  // [B, S, M, D]
  void* output;       // [B, Q, M * D]
};

// float32 (float64 where the value is float64) locations and weights from the fused form.
struct Expand {
  Sizes sizes;
  Points points;
  bool is_double;
  void* locations;
  void* weights;
};

// Locations and weights come in the buffers that receive their gradients: every place is read before it is written.
struct Backward {
  Sizes sizes;
  DType type;               // of value, grad_output and grad_value
  const void* value;        // [B, S, M, D]
  const void* grad_output;  // [B, Q, M * D]
  void* grad_value;         // [B, S, M, D]: the rows of all levels are written
  void* locations;          // [B, Q, M, L, P, 2] float32 or float64: in locations, out their gradient
  void* weights;            // [B, Q, M, L, P] likewise
};

// Gradients of locations and weights become those of reference points, offsets and logits, in place.
struct FusedFinish {
  Sizes sizes;
  Points points;
  bool is_double;
  void* offsets_grad;    // in: gradient of the locations
  void* logits_grad;     // in: gradient of the weights
  void* reference_grad;  // [B, Q, L, reference_dim], written
};

// Each function works on a range of independent items, so that any split over threads gives the same bits.
struct Kernels {
  const char* name;
  void (*forward)(const Forward&, int64_t begin, int64_t end);           // items: (batch, head, query)
  void (*expand)(const Expand&, int64_t begin, int64_t end);             // items: (batch, query)
  void (*backward)(const Backward&, int64_t begin, int64_t end);         // items: (batch, head, level)
  void (*fused_finish)(const FusedFinish&, int64_t begin, int64_t end);  // items: (batch, query)
};

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace dino_d2
