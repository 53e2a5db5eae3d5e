"""Samplers."""
# ruff: noqa: F401

from .distributed_sampler import InferenceSampler, TrainingSampler
