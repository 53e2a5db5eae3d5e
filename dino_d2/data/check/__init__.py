"""Is this a COCO detection dataset? Finds what is wrong with a json and its image folder, and says where.

    python -m dino_d2.data.check JSON IMAGES

`structure` reads the json and knows what makes it unusable; `findings` looks at boxes, classes and images besides.
"""

from .findings import check, table
from .structure import DatasetError, Finding, bad_annotations, first, read_coco

__all__ = ["DatasetError", "Finding", "bad_annotations", "check", "first", "read_coco", "table"]
