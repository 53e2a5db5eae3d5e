# SPDX-License-Identifier: Apache-2.0
"""Large COCO jsons as memory-mapped columns in a cache, read once per machine and shared by all its processes.

`cache` finds or makes the table of a json, `reader` makes one with the help of `json_parts` and `plain_entries`, and
`annotation_table` gives Detectron2's dataset dicts of one.
"""
