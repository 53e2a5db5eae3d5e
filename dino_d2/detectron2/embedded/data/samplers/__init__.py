# SPDX-License-Identifier: Apache-2.0
"""Samplers."""
# ruff: noqa: F401

from .distributed_sampler import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
