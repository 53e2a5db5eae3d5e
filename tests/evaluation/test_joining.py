# SPDX-License-Identifier: Apache-2.0
"""Results join the ground truth by id, or by name where ids are others."""

import json

import pytest

from dino_d2.errors import UserError
from dino_d2.evaluation.ground_truth import read_ground_truth
from dino_d2.evaluation.results import read_results
from tests.coco_results import truth_of, write

BOX = [0, 0, 10, 10]
TRUTH = truth_of([(1, 3, BOX), (2, 4, BOX)])


def joined(folder, results, file_names=("b.jpg", "a.jpg"), truth=TRUTH):
    """Image indices, labels, and what was said; images 1 and 2 have the given file names."""
    images = [image | {"file_name": name} for image, name in zip(truth["images"], file_names, strict=True)]
    found, annotations = write(folder, truth | {"images": images}, results)
    said = []
    detections = read_results(found, read_ground_truth(annotations, print), said.append)
    return detections.image.tolist(), detections.label.tolist(), said


def entry(image_id, name=None, category=3, class_name=None):
    named = {} if name is None else {"file_name": name}
    named |= {} if class_name is None else {"category_name": class_name}
    return {"image_id": image_id, "category_id": category, "bbox": BOX, "score": 0.5, **named}


@pytest.mark.parametrize("results", [
    [entry(1), entry(2)],
    [entry("1"), entry(2)],
    [entry(1, "b.jpg"), entry(2, "a.jpg")],
    [entry(1, "folder/b.png"), entry(2, "a.png")],  # converted pictures
])  # fmt: skip
def test_ids_that_agree_decide(tmp_path, results):
    assert joined(tmp_path, results) == ([0, 1], [0, 0], [])


def test_files_numbered_by_the_program_that_detected(tmp_path):
    """The ids are in the ground truth, but they are those of other images."""
    images, _, said = joined(tmp_path, [entry(1, "a.jpg"), entry(2, "b.jpg"), entry(1, "a.jpg")])
    assert images == [1, 0, 1]
    (sentence,) = said
    assert "joined by file name" in sentence
    assert "image 1 ('a.jpg') is 'b.jpg' there" in sentence.replace("(a.jpg)", "('a.jpg')")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "photos\\a.jpg", "/elsewhere/a.jpg"])
def test_a_name_in_place_of_an_id(tmp_path, name):
    assert joined(tmp_path, [entry(name)])[0] == [1]


def test_folders_distinguish_files_of_one_name(tmp_path):
    names = ("day/1.jpg", "night/1.jpg")
    assert joined(tmp_path, [entry(7, "set/night/1.jpg"), entry(8, "set/day/1.jpg")], names)[0] == [1, 0]
    with pytest.raises(UserError, match=r"'1.jpg' can be any of 'day/1.jpg', 'night/1.jpg'"):
        joined(tmp_path, [entry(7, "1.jpg")], names)
    with pytest.raises(UserError, match=r"images 7, 8 are all 'b.jpg'"):
        joined(tmp_path, [entry(7, "x/b.jpg"), entry(8, "y/b.jpg")])


def test_images_that_the_ground_truth_does_not_have_are_left_out(tmp_path):
    images, _, said = joined(tmp_path, [entry(1, "a.jpg"), entry(2, "c.jpg")])
    assert images == [1]
    assert "1 images of" in said[1]
    assert "'c.jpg'" in said[1]


def test_no_match_is_an_error_with_both_names(tmp_path):
    with pytest.raises(UserError, match=r"the results have 'x.jpg', the ground truth has 'b.jpg', 'a.jpg'"):
        joined(tmp_path, [entry(1, "x.jpg")])
    with pytest.raises(
        UserError, match=r"in 1 images that are not in .* ids 77; the ground truth has ids 1, 2 with names 'b"
    ):
        joined(tmp_path, [entry(1), entry(77)])


def test_frames_of_a_video_have_ids_alone(tmp_path):
    frames = [entry(i, "film.mp4") | {"frame": i} for i in (1, 2)]
    assert joined(tmp_path, frames)[0] == [0, 1]


def test_classes_are_joined_by_name_too(tmp_path):
    results = [entry(1, category=1, class_name="bee"), entry(1, category=4, class_name="ant")]
    _, labels, said = joined(tmp_path, results)
    assert labels == [1, 0]
    assert "classes are joined by name" in said[0]
    images, labels, said = joined(
        tmp_path, [entry(1, category=3, class_name="ant"), entry(2, category=9, class_name="dog")]
    )
    assert (images, labels) == ([0], [0])
    assert "1 classes" in said[0]
    assert "'dog'" in said[0]


def test_classes_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"category ids 0, which are not in .* '3 \(ant\)'.*numbers its classes from 0"):
        joined(tmp_path, [entry(1, category=0), entry(1, category=3)])
    with pytest.raises(UserError, match=r"no class of .* the results have 'dog'"):
        joined(tmp_path, [entry(1, category=3, class_name="dog")])


@pytest.mark.parametrize(("content", "words"), [
    ("no json", "is not a JSON file"),
    ("[]", "not a list of detections, or it is empty"),
    ("{}", "not a list of detections, or it is empty"),
    ('[{"image_id": 1}]', "entry 0 has no bbox or no score"),
    ("[3]", "entry 0 has no bbox"),
    ('[{"category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}]', "entry 0 has no image_id"),
    ('[{"image_id": 1.5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}]', "entry 0 has no image_id"),
    ('[{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1], "score": 1}]', "entry 0 needs a bbox of four numbers"),
    ('[{"image_id": 1, "category_id": 3, "bbox": "0011", "score": 1}]', "entry 0 needs a bbox of four numbers"),
    ('[{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, NaN], "score": 1}]', "1 detections have NaN"),
    ('[{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": "x"}]', "entry 0 needs a bbox .* and a score"),
])  # fmt: skip
def test_files_of_something_else(tmp_path, content, words):
    found, annotations = write(tmp_path, TRUTH, [])
    found.write_text(content)
    with pytest.raises(UserError, match=words):
        read_results(found, read_ground_truth(annotations, print), print)
    with pytest.raises(UserError, match=r"there is no .*nothing\.json"):
        read_results(tmp_path / "nothing.json", read_ground_truth(annotations, print), print)


def test_entries_may_have_masks(tmp_path):
    results = [entry(1) | {"segmentation": {"size": [200, 200], "counts": "abc"}}]
    assert joined(tmp_path, json.loads(json.dumps(results)))[0] == [0]
