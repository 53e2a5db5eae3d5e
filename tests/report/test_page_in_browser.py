# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, on a desktop and on a phone: all is shown, and nothing is loaded.

Needs the package playwright and a Chromium: its own, or one that the system has.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_d2.report.command import main
from tests.coco_results import random_data, write

sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = own if Path(own).exists() else next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            pytest.skip("there is no Chromium")
        # Without a sandbox, as root in a container; the page is this test's own.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    truth, results = random_data(0)
    truth["categories"][0]["name"] = "<b onclick='x'>ant</b>" * 3  # long, and not to be read as HTML
    found, annotations = write(folder, truth, results)
    for i in range(1, 13):
        Image.fromarray(np.full((200, 200, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    arguments = ["--results", found, "--annotations", annotations, "--images", folder, "--output", folder / "out"]
    main([*map(str, arguments), "--pictures", "3"])
    return folder / "out" / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_shown_and_nothing_is_loaded(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    said, addresses = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(report.as_uri())
    assert said == []
    assert [address for address in addresses if not address.startswith("data:")] == [report.as_uri()]
    images = page.evaluate("[...document.images].map(image => [image.complete, image.naturalWidth, image.width])")
    assert len(images) == 3 + 2 * 9
    assert all(complete and natural > 100 and shown > 100 for complete, natural, shown in images)
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
    small = "[...document.querySelectorAll('p, td, th, figcaption')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(page.evaluate(small)) >= 12
    assert page.locator("h2").all_inner_texts() == [
        "AP by class", "Precision and recall", "Score threshold", "Confusion matrix", "Kinds of mistakes", "Duplicates",
        "Worst images", "Most confident false positives", "Missed objects",
    ]  # fmt: skip
    assert page.locator("th", has_text="<b onclick='x'>ant</b>").count() >= 3
    assert page.locator("b[onclick]").count() == 0
    page.close()
