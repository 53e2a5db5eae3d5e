"""Look a dataset over before training: python -m dino_d2.data.check JSON IMAGES"""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from .findings import check, objects_per_category, table
from .structure import DatasetError, load


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.data.check") -> int:
    """Prints what is in the dataset and what is wrong with it; 1 if it cannot be used, else 0."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Reads a COCO json and all its images and says what is wrong."
    )
    parser.add_argument("json", metavar="JSON", type=Path, help="annotation file in COCO format")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder that its file names are relative to")
    options = parser.parse_args(arguments)
    try:
        coco = load(options.json, options.images)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    findings = check(coco, options.images)
    counts = objects_per_category(coco)
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in coco["annotations"])
    print(
        f"{options.json}: {len(coco['images'])} images, {sum(counts.values())} objects, {crowds} crowd regions, "
        f"{len(coco['categories'])} categories"
    )
    rows = [(c["id"], c["name"], counts[c["id"]]) for c in sorted(coco["categories"], key=lambda c: c["id"])]
    print("\n" + tabulate(rows, headers=("id", "category", "objects")) + "\n")
    if findings:
        print(table(findings) + "\n")
    errors = sum(finding.is_error for finding in findings)
    print(
        f"{errors} kinds of errors, {len(findings) - errors} of warnings: "
        + ("training would stop." if errors else "fit for training.")
    )
    return int(errors > 0)


if __name__ == "__main__":
    sys.exit(main())
