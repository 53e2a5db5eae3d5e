#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Detect objects in images, folders, videos or a webcam; the same as `dino_d2 predict`.

    python demo/demo.py --config-file configs/dino/dino_tiny_shapes.py \\
        --weights output/dino_tiny_shapes/model_final.pth --input images/*.jpg --output found
"""

from dino_d2.predict.command import main

if __name__ == "__main__":
    main(prog="demo/demo.py")
