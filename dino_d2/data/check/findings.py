"""Everything that is worth knowing about a dataset before it is trained on, as a table."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from dino_d2.detectron2.data.detection_utils import read_image

from .structure import Finding, bad_annotations, faults, first

#: A class with fewer objects is hardly learnt.
FEW_OBJECTS = 10

#: Detections of an image and class that COCO's AP counts.
COUNTED_BY_AP = 100

#: What Pillow raises for files that are broken, no images, or absurdly large.
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

_UPRIGHT = 4  # EXIF orientations above this one swap width and height
_ORIENTATION = 0x0112


def check(coco: dict, images: Path, open_at_most: int | None = None, decode: bool = True) -> list[Finding]:
    """Looks for every kind of fault, errors first.

    Args:
        coco: as `structure.load` gives it.
        images: folder of the images.
        open_at_most: number of image files to open; None opens all.
        decode: read the opened files to their end, which finds those that are cut off; without it their first
            bytes are read, which is some 50 times as fast and finds what is no image or has another size.
    """
    findings = [*faults(coco, images), *_boxes(coco), *_classes(coco), *_images(coco), *_crowded(coco)]
    findings += _files(coco["images"][:open_at_most], images, decode)
    return sorted(findings, key=lambda finding: not finding.is_error)


def table(findings: list[Finding]) -> str:
    """The findings for people to read, errors above warnings."""
    rows = [
        (
            "error" if finding.is_error else "warning",
            len(finding.ids),
            finding.what,
            ", ".join(filter(None, (first(finding.ids, 3), finding.example))),
            finding.advice,
        )
        for finding in findings
    ]
    return tabulate(
        rows, headers=("", "count", "what", "first ids", "what to do"), maxcolwidths=[None, None, 34, 40, 40]
    )


def _boxes(coco: dict) -> Iterator[Finding]:
    for reason, ids in bad_annotations(coco).items():
        yield Finding(False, f"annotations whose {reason}", ids, "They are skipped. Correct or delete them.")
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    bad = {i for ids in bad_annotations(coco).values() for i in ids}
    beyond = [
        annotation["id"]
        for annotation in coco["annotations"]
        if annotation["id"] not in bad and annotation["image_id"] in sizes
        if _reaches_out(annotation["bbox"], *sizes[annotation["image_id"]])
    ]
    if beyond:
        yield Finding(False, "annotations whose bbox is partly outside its image", beyond, "Such boxes are clipped.")


def _reaches_out(bbox: list[float], width: float, height: float) -> bool:
    """By more than a pixel: less is rounding."""
    x, y, w, h = bbox
    return x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1


def _classes(coco: dict) -> Iterator[Finding]:
    counts = objects_per_category(coco)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    parents = {category.get("supercategory") for category in coco["categories"]}
    none = [i for i in names if counts[i] == 0]
    few = [i for i in names if 0 < counts[i] < FEW_OBJECTS]
    if none:
        roboflow = any(names[i] in parents for i in none)
        yield Finding(
            False,
            "categories without an object",
            none,
            "Roboflow writes its project's name as one; it does no harm." if roboflow else "They cannot be learnt.",
            ", ".join(names[i] for i in none[:3]),
        )
    if few:
        yield Finding(
            False,
            f"categories with fewer than {FEW_OBJECTS} objects",
            few,
            "Add examples; so few are hardly learnt.",
            ", ".join(f"{names[i]} has {counts[i]}" for i in few[:3]),
        )
    same = Counter(names.values())
    twice = [i for i, name in names.items() if same[name] > 1]
    if twice:
        yield Finding(False, "categories with the name of another", twice, "They are learnt as different classes.")


def objects_per_category(coco: dict) -> Counter:
    """{category id: annotations that are no crowd}."""
    return Counter(a["category_id"] for a in coco["annotations"] if not a.get("iscrowd"))


def _images(coco: dict) -> Iterator[Finding]:
    with_objects = {annotation["image_id"] for annotation in coco["annotations"]}
    empty = [image["id"] for image in coco["images"] if image["id"] not in with_objects]
    if len(empty) == len(coco["images"]):
        yield Finding(False, "images, which is all, have no object", empty, "Is this the right json?")
    elif empty:
        yield Finding(False, "images without an object", empty, "They teach what is background.")
    same = Counter(image["file_name"] for image in coco["images"])
    twice = [image["id"] for image in coco["images"] if same[image["file_name"]] > 1]
    if twice:
        yield Finding(False, "images whose file is listed more than once", twice, "Join their annotations.")


def _crowded(coco: dict) -> Iterator[Finding]:
    """Images with more objects of one class than COCO's AP counts."""
    objects = Counter((a["image_id"], a["category_id"]) for a in coco["annotations"] if not a.get("iscrowd"))
    over = {pair: count for pair, count in objects.items() if count > COUNTED_BY_AP}
    if over:
        names = {category["id"]: category["name"] for category in coco["categories"]}
        (image, category), most = max(over.items(), key=lambda item: item[1])
        yield Finding(
            False,
            f"images with more than {COUNTED_BY_AP} objects of one class",
            list(dict.fromkeys(image for image, _ in over)),
            f"AP counts the {COUNTED_BY_AP} best detections of an image and class. "
            f"Set dataloader.evaluator.max_dets_per_image={most} and model.postprocess.top_k to as many or more.",
            f"image {image!r} has {most} of {names.get(category, category)}",
        )


def _files(entries: list[dict], images: Path, decode: bool) -> Iterator[Finding]:
    """Opens the files of the images; those that are missing are another finding."""

    def look(entry: dict) -> tuple[int, int] | str | None:
        path = images / entry["file_name"]
        return size_of(path, decode) if path.is_file() else None

    with ThreadPoolExecutor() as threads:  # Pillow lets other threads run while it decodes
        # `disable=None`: a bar in a terminal, nothing in a log file.
        looked = list(tqdm(threads.map(look, entries), "images", len(entries), disable=None, leave=False))
    broken = [(entry, seen) for entry, seen in zip(entries, looked, strict=True) if isinstance(seen, str)]
    if broken:
        yield Finding(
            True,
            "images that cannot be read",
            [entry["id"] for entry, _ in broken],
            "Replace the files, or take the images out of the json.",
            f"the first is {images / broken[0][0]['file_name']}: {broken[0][1]}",
        )
    other_size = [
        (entry, seen)
        for entry, seen in zip(entries, looked, strict=True)
        if isinstance(seen, tuple) and seen != (entry["width"], entry["height"])
    ]
    if other_size:
        entry, (width, height) = other_size[0]
        yield Finding(
            True,
            "images with another size than the json says",
            [entry["id"] for entry, _ in other_size],
            "Correct width and height in the json; if they are swapped, the files have an EXIF rotation that the "
            "json does not know of: save them without it.",
            f"the first is {images / entry['file_name']}: {width} x {height}, not {entry['width']} x {entry['height']}",
        )


def size_of(path: Path, decode: bool) -> tuple[int, int] | str:
    """(width, height) in pixels after the EXIF rotation, as the mapper will see it, or what is wrong."""
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and not decode:
                return image.size  # Pillow would decode it to look for EXIF data
            if image.format in ("JPEG", "MPO", "WEBP") and not decode:
                turned = image.getexif().get(_ORIENTATION, 1) > _UPRIGHT
                return image.size[::-1] if turned else image.size
        height, width = read_image(str(path), format="RGB").shape[:2]
        return width, height
    except PILLOW_ERRORS as error:
        return str(error)
