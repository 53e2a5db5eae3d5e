# SPDX-License-Identifier: Apache-2.0
"""Layout of several pictures on one sheet, with captions and a legend."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .style import INK, PAPER, TILE, Colour, font, readable_on

GAP = 8
_CAPTION = 24


def captioned(image: Image.Image, text: str) -> Image.Image:
    """The image below its caption, centred if it is narrower than a tile."""
    sheet = Image.new("RGB", (max(TILE, image.width), image.height + _CAPTION), PAPER)
    sheet.paste(image, ((sheet.width - image.width) // 2, _CAPTION))
    ImageDraw.Draw(sheet).text((2, 3), text, fill=INK, font=font(14))
    return sheet


def side_by_side(*images: Image.Image, gap: int = GAP) -> Image.Image:
    """Images next to each other."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + gap
    return sheet


def stacked(*images: Image.Image) -> Image.Image:
    """Images below each other, with a margin around them."""
    width = max(image.width for image in images) + 2 * GAP
    sheet = Image.new("RGB", (width, sum(image.height + GAP for image in images) + GAP), PAPER)
    y = GAP
    for image in images:
        sheet.paste(image, (GAP, y))
        y += image.height + GAP
    return sheet


def legend(entries: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    """Names on the background of their colours, in lines of the given width in pixels."""
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], 0, 0
    for name, colour in entries:
        length = round(probe.textlength(name, font=font(14))) + 12
        if x and x + length > width:
            x, y = 0, y + _CAPTION
        places.append((x, y, length, name, colour))
        x += length + GAP
    sheet = Image.new("RGB", (width, y + _CAPTION), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, y, length, name, colour in places:
        pen.rectangle((x, y, x + length, y + _CAPTION - 3), fill=colour, outline=INK if colour == PAPER else colour)
        pen.text((x + 6, y + 2), name, fill=readable_on(colour), font=font(14))
    return sheet
