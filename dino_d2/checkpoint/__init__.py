from .load import LoadReport, load_checkpoint, load_tensors

__all__ = ["LoadReport", "load_checkpoint", "load_tensors"]
