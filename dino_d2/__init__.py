"""DINO (DETR with Improved DeNoising Anchor Boxes) and the detectors it grew from, for Detectron2 users."""

__version__ = "0.1.0"
