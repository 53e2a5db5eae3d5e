// SPDX-License-Identifier: Apache-2.0
// Checks of the op's arguments, the same for every device, and the sizes they give.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace dino_d2 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string to_string(torch::headeronly::IntHeaderOnlyArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

inline void check_shape(const Tensor& t, const char* name, const char* letters, std::initializer_list<int64_t> shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  std::string expected = "[";
  int64_t i = 0;
  for (int64_t size : shape) {
    same = same && t.size(i) == size;
    expected += (i++ ? ", " : "") + std::to_string(size);
  }
  STD_TORCH_CHECK(same, "ms_deform_attn: ", name, " must have the shape ", letters, " = ", expected, "], but has ",
                  to_string(t.sizes()));
}

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::Half: return DType::f16;
    case ScalarType::BFloat16: return DType::bf16;
    default: break;
  }
  STD_TORCH_CHECK(false, "ms_deform_attn: ", name, " must be float32, float64, float16 or bfloat16");
  return DType::f32;
}

inline void check_device(const Tensor& t, const char* name, const Tensor& value) {
  STD_TORCH_CHECK(t.is_cuda() == value.is_cuda() && t.is_cpu() == value.is_cpu() &&
                      t.get_device_index() == value.get_device_index(),
                  "ms_deform_attn: ", name, " must be on the same device as value");
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// int32 or int64, as a contiguous int64 tensor.
inline Tensor as_int64(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Long || type == ScalarType::Int, "ms_deform_attn: ", name,
                  " must be an int64 (or int32) tensor");
  return as_contiguous(type == ScalarType::Long ? t : torch::stable::to(t, ScalarType::Long));
}

// The arguments of every variant: contiguous, checked. `reference` is null for the plain form.
struct Arguments {
  Tensor value, shapes, starts, locations, weights, reference;
  Sizes sizes;
  DType type;
  Points points;

  Arguments(const Tensor& value_, const Tensor& shapes_, const Tensor& starts_, const Tensor* reference_,
            const Tensor& locations_, const Tensor& weights_) {
    const char* locations_name = reference_ ? "sampling_offsets" : "sampling_locations";
    const char* weights_name = reference_ ? "attention_logits" : "attention_weights";
    STD_TORCH_CHECK(value_.dim() == 4, "ms_deform_attn: value must have the shape [B, S, M, D], but has ",
                    to_string(value_.sizes()));
    STD_TORCH_CHECK(locations_.dim() == 6, "ms_deform_attn: ", locations_name,
                    " must have the shape [B, Q, M, L, P, 2], but has ", to_string(locations_.sizes()));
    const int64_t b = value_.size(0), s = value_.size(1), m = value_.size(2), d = value_.size(3);
    const int64_t q = locations_.size(1), l = locations_.size(3), p = locations_.size(4);
    check_shape(shapes_, "spatial_shapes", "[L, 2]", {l, 2});
    check_shape(starts_, "level_start_index", "[L]", {l});
    check_shape(locations_, locations_name, "[B, Q, M, L, P, 2]", {b, q, m, l, p, 2});
    check_shape(weights_, weights_name, "[B, Q, M, L, P]", {b, q, m, l, p});
    check_device(shapes_, "spatial_shapes", value_);
    check_device(starts_, "level_start_index", value_);
    check_device(locations_, locations_name, value_);
    check_device(weights_, weights_name, value_);
    type = dtype_of(value_, "value");
    value = as_contiguous(value_);
    shapes = as_int64(shapes_, "spatial_shapes");
    starts = as_int64(starts_, "level_start_index");
    locations = as_contiguous(locations_);
    weights = as_contiguous(weights_);
    points.locations = {locations.const_data_ptr(), dtype_of(locations, locations_name)};
    points.weights = {weights.const_data_ptr(), dtype_of(weights, weights_name)};
    points.reference = {nullptr, DType::f32};
    points.reference_dim = 0;
    if (reference_) {
      STD_TORCH_CHECK(reference_->dim() == 4 && (reference_->size(3) == 2 || reference_->size(3) == 4),
                      "ms_deform_attn: reference_points must have the shape [B, Q, L, 2] or [B, Q, L, 4], but has ",
                      to_string(reference_->sizes()));
      check_shape(*reference_, "reference_points", "[B, Q, L, 2 or 4]", {b, q, l, reference_->size(3)});
      check_device(*reference_, "reference_points", value_);
      reference = as_contiguous(*reference_);
      points.reference = {reference.const_data_ptr(), dtype_of(reference, "reference_points")};
      points.reference_dim = reference.size(3);
    }
    const auto* shapes_data = static_cast<const int64_t*>(shapes.const_data_ptr());
    const auto* starts_data = static_cast<const int64_t*>(starts.const_data_ptr());
    sizes = {b, s, q, m, d, l, p, shapes_data, starts_data};
  }

  ScalarType compute_type() const { return type == DType::f64 ? ScalarType::Double : ScalarType::Float; }

  Tensor check_grad_output(const Tensor& grad) const {
    check_shape(grad, "grad_output", "[B, Q, M * D]", {sizes.batch, sizes.queries, sizes.heads * sizes.channels});
    check_device(grad, "grad_output", value);
    return as_contiguous(grad.scalar_type() == value.scalar_type() ? grad
                                                                   : torch::stable::to(grad, value.scalar_type()));
  }
};

}  // namespace dino_d2
