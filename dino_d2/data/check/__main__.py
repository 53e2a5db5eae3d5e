# SPDX-License-Identifier: Apache-2.0
"""Examine a dataset before training: python -m dino_d2.data.check JSON IMAGES"""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from dino_d2.data.coco_format import coco_format
from dino_d2.data.train_command import FROM_SCRATCH, how_to_train_on
from dino_d2.errors import UserError

from .columns import columns
from .fields import DatasetError, normalise
from .findings import check, objects_per_category, table
from .splits import shared_contents, shared_names
from .structure import load, read_coco


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.data.check") -> int:
    """Print the content and the faults of a dataset; returns 1 if it cannot be used, else 0."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Reads a COCO json and all its images and reports all faults."
    )
    parser.add_argument("json", metavar="JSON", type=Path, help="annotation file in COCO format")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder that its file names are relative to")
    parser.add_argument(
        "--within", type=Path, metavar="FOLDER", help="that no file name may leave; IMAGES if not given"
    )
    parser.add_argument(
        "--train",
        nargs=2,
        type=Path,
        metavar=("JSON", "IMAGES"),
        help="the training set, where the other one validates: which photographs are in both",
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write pictures of labels, sizes and batches")
    parser.add_argument(
        "--config-file", default=FROM_SCRATCH, metavar="RECIPE", help="recipe for own data whose batches are drawn"
    )
    options = parser.parse_args(arguments)
    try:
        raw = load(options.json, options.images)
        findings = check(raw, options.images, within=options.within, json=options.json)
        coco = normalise(raw, options.json).coco
        if options.train:
            train_json, train_images = options.train
            train = read_coco(train_json, train_images, within=options.within)
            sets = train, train_images, coco, options.images
            findings += [*shared_names(*sets), *shared_contents(*sets)]
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = objects_per_category(columns(coco))
    crowds = sum(annotation["iscrowd"] for annotation in coco["annotations"])
    print(
        f"{options.json}: {len(coco['images'])} images, {sum(counts.values())} objects, {crowds} crowd regions, "
        f"{len(coco['categories'])} categories"
    )
    rows = [(c["id"], c["name"], counts[c["id"]]) for c in sorted(coco["categories"], key=lambda c: c["id"])]
    print("\n" + tabulate(rows, headers=("id", "category", "objects")) + "\n")
    if findings:
        print(table(findings) + "\n")
    errors = sum(finding.is_error for finding in findings)
    usable = "fit for training." if counts else "nothing to learn in it."
    verdict = "training would stop." if errors else usable
    print(f"{errors} kinds of errors, {len(findings) - errors} of warnings: {verdict}")
    if errors or not counts:
        return int(errors > 0)
    if options.pictures:
        from dino_d2.visualize.before_training import write_pictures  # imports the detector, which takes seconds

        try:
            name = coco_format(options.json, options.images, within=options.within)
            written = write_pictures(options.pictures, name, options.config_file)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print("pictures: " + ", ".join(map(str, written)))
    if words := how_to_train_on(options.json, options.images, options.train and tuple(options.train)):
        print(f"\n{words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
