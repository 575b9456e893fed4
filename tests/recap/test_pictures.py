"""Opening pictures: what is refused by which rule, and what is converted."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from recap import pictures


def saved(picture: Image.Image, **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def noise(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def bomb(side: int) -> bytes:
    """Give a PNG of 100 bytes that promises side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + end

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + rows


FRAMES = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]

BAD = {
    "text named .jpg": (b"this is not a picture", "not_an_image"),
    "empty file": (b"", "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "truncated jpeg": (saved(noise(), format="JPEG")[:400], "truncated"),
    "truncated png": (saved(noise())[:400], "truncated"),
    "header alone": (saved(noise(), format="JPEG")[:10], "truncated"),
    "one pixel": (saved(Image.new("RGB", (1, 1))), "too_small"),
    "one row": (saved(Image.new("RGB", (100, 1))), "too_small"),
    "bomb": (bomb(50_000), "too_many_pixels"),
    "large": (bomb(9_000), "too_many_pixels"),
    "animated gif": (
        saved(FRAMES[0], format="GIF", save_all=True, append_images=FRAMES[1:]),
        "animated",
    ),
    "animated png": (saved(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "animated"),
    "animated webp": (
        saved(FRAMES[0], format="WEBP", save_all=True, append_images=FRAMES[1:]),
        "animated",
    ),
    "pages": (saved(FRAMES[0], format="TIFF", save_all=True, append_images=FRAMES[1:]), "animated"),
    "cmyk": (saved(noise(mode="CMYK"), format="JPEG"), "cmyk"),
    "16-bit grey": (
        saved(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))),
        "sixteen_bit",
    ),
    "32-bit": (saved(noise(mode="F"), format="TIFF"), "sixteen_bit"),
    "lab": (saved(noise(mode="LAB"), format="TIFF"), "colour_mode"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_refused_by_its_rule(name: str) -> None:
    data, rule = BAD[name]
    for open_it in (pictures.decode, lambda data: pictures.pixels(data, size=16)):
        with pytest.raises(pictures.PictureError) as error:
            open_it(data)
        assert error.value.rule == rule
        assert error.value.detail


def test_a_tiff_of_damaged_tags_is_refused_like_any_damaged_picture() -> None:
    data = saved(noise(), format="TIFF")
    width = struct.pack("<H", 256)  # the tag of its width
    start = struct.unpack("<I", data[4:8])[0]
    at = data.index(width, start)
    assert data[:4] == b"II*\0"
    with pytest.raises(pictures.PictureError):
        pictures.decode(data[:at] + struct.pack("<H", 40_000) + data[at + 2 :])


def test_sixteen_bit_colour_is_refused_though_pillow_would_round_it() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(16 * 6)) * 16)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    assert Image.open(BytesIO(data)).mode == "RGB"
    with pytest.raises(pictures.PictureError, match="sixteen_bit"):
        pictures.decode(data)


def test_a_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    import tracemalloc

    data = BAD["bomb"][0]
    tracemalloc.start()
    with pytest.raises(pictures.PictureError):
        pictures.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_faithful_modes_become_rgb(mode: str) -> None:
    decoded = pictures.decode(saved(noise(mode=mode)))
    assert decoded.mode == "RGB"
    assert decoded.size == (40, 30)


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert pictures.decode(saved(clear)).getpixel((5, 5)) == (255, 255, 255)


def test_a_photograph_is_turned_as_its_tag_says() -> None:
    picture = noise(40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pictures.decode(saved(picture, format="JPEG", exif=exif)).size == (30, 40)


def test_the_middle_square_is_kept() -> None:
    values = np.zeros((20, 60, 3), dtype=np.uint8)
    values[:, 20:40] = 200
    out = pictures.pixels(saved(Image.fromarray(values)), size=20)
    assert (out == 200).all()


def test_pixels_of_the_right_size_are_untouched() -> None:
    picture = noise(32, 32)
    assert np.array_equal(pictures.pixels(saved(picture), size=32), np.asarray(picture))


def test_a_large_jpeg_decoded_at_a_smaller_scale_looks_the_same() -> None:
    slope = np.linspace(0, 255, 512, dtype=np.uint8)
    values = np.repeat(np.tile(slope, (512, 1))[..., None], 3, axis=2)
    data = saved(Image.fromarray(values), format="JPEG", quality=95)
    quick = pictures.pixels(data, size=32).astype(int)
    exact = np.asarray(pictures.centre_crop(pictures.decode(data), size=32)).astype(int)
    assert abs(quick - exact).max() <= 4


def test_png_keeps_every_pixel() -> None:
    values = np.asarray(noise(32, 32))
    assert np.array_equal(np.asarray(pictures.decode(pictures.encode_png(values))), values)
