"""Several pictures on one sheet, with captions and a legend."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .style import INK, PAPER, TILE, Colour, font, readable_on

GAP = 8
_CAPTION = 24


def captioned(image: Image.Image, text: str) -> Image.Image:
    """The image in the middle of a tile's width, under its caption."""
    sheet = Image.new("RGB", (max(TILE, image.width), image.height + _CAPTION), PAPER)
    sheet.paste(image, ((sheet.width - image.width) // 2, _CAPTION))
    ImageDraw.Draw(sheet).text((2, 3), text, fill=INK, font=font(14))
    return sheet


def beside(*images: Image.Image, gap: int = GAP) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + gap
    return sheet


def below(*images: Image.Image) -> Image.Image:
    width = max(image.width for image in images) + 2 * GAP
    sheet = Image.new("RGB", (width, sum(image.height + GAP for image in images) + GAP), PAPER)
    y = GAP
    for image in images:
        sheet.paste(image, (GAP, y))
        y += image.height + GAP
    return sheet


def legend(entries: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    """Names on their colours, as many to a line as fit."""
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
