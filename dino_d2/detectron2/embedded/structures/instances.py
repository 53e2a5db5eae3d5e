# SPDX-License-Identifier: Apache-2.0
"""The objects of one image, as in `detectron2.structures.instances`."""

import itertools
from typing import Any, NoReturn

import torch


class Instances:
    """Fields of equal length that describe n objects of one image.

    `instances.gt_boxes = Boxes(...)` sets a field, `instances.gt_boxes` and `instances.get("gt_boxes")` read
    it, and indexing with an int, a slice, an index vector or a mask selects objects in all fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """
        Args:
            image_size: (height, width) in pixels.
            kwargs: the first fields.
        """
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look up attributes before the fields exist
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances have no field '{name}'.")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; it must have the length of the other fields."""
        if self._fields and len(value) != len(self):
            raise AssertionError(
                f"Field '{name}' has length {len(value)}, but these Instances have length {len(self)}."
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields by name; changing this dict changes the instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Move all fields that can be moved, such as tensors and `Boxes`."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: Any) -> "Instances":
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"Index {item} is out of range for {len(self)} instances.")
            item = slice(item, None, len(self))
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length.")

    def __iter__(self) -> NoReturn:
        raise NotImplementedError("Instances cannot be iterated over: index them, or iterate over a field.")

    @staticmethod
    def cat(instance_lists: "list[Instances]") -> "Instances":
        """Join instances of one image size that have the same fields."""
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if any(instances.image_size != first.image_size for instances in instance_lists):
            raise AssertionError("Instances of images of different sizes cannot be joined.")
        joined = Instances(first.image_size)
        for name, value in first.get_fields().items():
            values = [instances.get(name) for instances in instance_lists]
            if isinstance(value, torch.Tensor):
                joined.set(name, torch.cat(values))
            elif isinstance(value, list):
                joined.set(name, list(itertools.chain.from_iterable(values)))
            elif hasattr(type(value), "cat"):
                joined.set(name, type(value).cat(values))
            else:
                raise ValueError(f"Field '{name}' of type {type(value).__name__} cannot be joined.")
        return joined

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        height, width = self._image_size
        return f"Instances(num_instances={len(self)}, image_height={height}, image_width={width}, fields=[{fields}])"
