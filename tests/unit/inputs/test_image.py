"""Input type image: encoded pictures, decoded here and never fetched."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.inputs import image
from seaway.inputs.image import ImageInput
from seaway.packages import InputSpec, PackageSpec
from seaway.types import Signature, TensorSpec


def images(shape: tuple[int, ...] = (-1, 3, 2, 4), datatype: str = "FP32", **options: Any) -> ImageInput:
    signature = Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", "FP32", (-1, 2)),))
    return ImageInput.open(Path(), PackageSpec(input=InputSpec(type="image", options=options)), signature)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


TABLES = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64 + b"\xff\xc4\x00\x14\x10" + bytes([1] + [0] * 15) + b"\xe0"
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10"
SEGMENT = b"\xff\xe5\x00\x02"


def jpeg_of_scans(size: int, scans: int, before: bytes = b"") -> bytes:
    """A progressive JPEG whose scans change nothing, for a few bytes each."""
    blocks = (size // 8) ** 2
    bits = ("0" + "1" * 14) * (blocks // 32_767 + 1)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, size, size, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + before + frame + TABLES + (SCAN + data) * scans + b"\xff\xd9"


RED = Image.new("RGB", (8, 8), (255, 0, 0))


def test_pixels_are_scaled_and_normalised_per_channel() -> None:
    array = images(mean=[0.5, 0.5, 0.5], std=[0.5, 0.25, 1]).prepare(encoded(RED)).feeds[0]["x"]

    assert array.shape == (1, 3, 2, 4)
    np.testing.assert_allclose(array[0, :, 0, 0], [1, -2, -0.5], rtol=1e-6)


def test_the_layout_may_put_channels_last() -> None:
    array = images((-1, 2, 4, 3), layout="NHWC").prepare(encoded(RED)).feeds[0]["x"]

    assert array.shape == (1, 2, 4, 3)
    np.testing.assert_allclose(array[0, 0, 0], [1, 0, 0])


def test_grey_images_have_one_channel() -> None:
    assert images((-1, 1, 2, 4), mode="L").prepare(encoded(RED)).feeds[0]["x"].shape == (1, 1, 2, 4)


def test_integer_graphs_get_the_bytes_themselves() -> None:
    array = images(datatype="UINT8").prepare(encoded(RED)).feeds[0]["x"]

    assert array.dtype == np.uint8
    assert array[0, 0].max() == 255


def test_base64_and_data_urls_are_decoded() -> None:
    text = base64.b64encode(encoded(RED)).decode()

    samples = images().prepare([text, f"data:image/png;base64,{text}"])

    assert samples.rows == 2
    np.testing.assert_array_equal(samples.feeds[0]["x"][0], samples.feeds[0]["x"][1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_common_formats_are_read(kind: str, mode: str) -> None:
    if kind == "JPEG" and mode == "P":
        mode = "CMYK"
    image = RED.convert(mode if kind != "WEBP" else "RGB")

    assert images().prepare(encoded(image, kind)).rows == 1


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(PayloadTooLarge, match="max_pixels"):
        images().prepare(png_header(60_000, 60_000))


def test_the_limit_counts_all_images_of_a_request() -> None:
    text = base64.b64encode(encoded(RED)).decode()

    assert images(max_pixels=128).prepare([text, text]).rows == 2
    with pytest.raises(PayloadTooLarge, match="128 pixels"):
        images(max_pixels=128).prepare([text, text, text])


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\xff" * 5 + b"\xd9\xff\xd8",
        SEGMENT + b"\xff\xe1\x00\x00" + b"\xff\x00\xff\xff" + b"\xff\xdb\x00\x43\x00" + b"\x01" * 64,
    ],
    ids=["plain", "behind tables of their own", "behind odd segments"],
)
def test_a_jpeg_with_a_thousand_scans_is_refused_before_it_is_decoded(before: bytes) -> None:
    assert images().prepare(jpeg_of_scans(4096, 40, before)).rows == 1
    with pytest.raises(PayloadTooLarge, match="JPEG of so many scans"):
        images().prepare(jpeg_of_scans(4096, 1000, before))


def test_scans_of_all_images_of_a_request_count_together() -> None:
    text = base64.b64encode(jpeg_of_scans(2048, 100)).decode()
    assert images().prepare([text, text]).rows == 2
    with pytest.raises(PayloadTooLarge, match=r"inputs\[2\] is a JPEG of so many scans"):
        images().prepare([text, text, text])


def test_small_jpegs_may_have_ten_scans_each_where_few_pixels_are_allowed() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    file = io.BytesIO()
    noise.save(file, "JPEG", progressive=True)
    assert file.getvalue().count(b"\xff\xda") == 10
    text = base64.b64encode(file.getvalue()).decode()
    assert images(max_pixels=64 * 64 * 64).prepare([text] * 64).rows == 64


def test_what_only_looks_like_scans_in_a_thumbnail_or_behind_the_picture_is_none() -> None:
    likeness = b"\xff\xda" * 20_000
    photograph = encoded(RED, "JPEG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(likeness)) + likeness
    assert images().prepare(photograph[:2] + thumbnail + photograph[2:] + likeness * 10).rows == 1


def test_scans_behind_what_a_decoder_passes_over_while_it_looks_for_a_restart_count() -> None:
    # An unknown marker: its length would lead past the scans, but a decoder that resynchronises doesn't read it.
    hidden = b"\xff\x02\xff\xff"
    restarts = b"\xff\xdd" + struct.pack(">HH", 4, 1)
    content = jpeg_of_scans(4096, 1000, before=restarts).replace(SCAN, hidden + SCAN).replace(hidden, b"", 1)
    with pytest.raises(PayloadTooLarge, match="JPEG of so many scans"):
        images().prepare(content)


def test_exif_data_may_have_some_pieces_and_not_thousands() -> None:
    photograph = encoded(RED, "JPEG")
    piece = b"\xff\xe1" + struct.pack(">H", 258) + b"Exif\0\0" + b"x" * 250
    assert images().prepare(photograph[:2] + piece * 60 + photograph[2:]).rows == 1
    with pytest.raises(InvalidRequest, match="its Exif data is in more than 64 pieces"):
        images().prepare(photograph[:2] + piece * 1000 + photograph[2:])


def test_a_jpeg_is_decoded_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = image._Pieces.read
    monkeypatch.setattr(image._Pieces, "read", lambda self, size=-1: reads.append(size) or read(self, size))
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (512, 512, 3), dtype=np.uint8)).save(file, "JPEG")
    content = file.getvalue()
    assert len(content) > 2 * ImageFile.MAXBLOCK
    images().prepare(content)
    assert reads[-1] >= len(content) - ImageFile.MAXBLOCK


def test_a_jpeg_may_be_full_of_restarts() -> None:
    restarts = b"".join(b"\xff" + bytes([0xD0 + number % 8]) for number in range(100_000))
    photograph = encoded(RED, "JPEG")
    likeness = b"\xff\xfe" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    assert images().prepare(photograph[:2] + likeness + photograph[2:-2] + restarts + b"\xff\xd9").rows == 1


def pieces(kind: str, piece: bytes, times: int) -> bytes:
    """A small picture with so many pieces in its header."""
    picture = encoded(RED.convert("P") if kind == "GIF" else RED, kind)
    at = {"JPEG": 2, "PNG": 33, "GIF": 13 + 3 * (2 << (picture[10] & 7))}[kind]
    return picture[:at] + piece * times + picture[at:]


@pytest.mark.parametrize(
    ("kind", "piece"),
    [("JPEG", SEGMENT), ("JPEG", b"\xff"), ("PNG", chunk(b"abCd", b"")), ("GIF", b"!\xfe\x01a\x00")],
    ids=["segments", "padding", "chunks", "comments"],
)
def test_a_header_of_very_many_small_pieces_is_refused_and_one_of_a_hundred_is_read(kind: str, piece: bytes) -> None:
    assert images().prepare(pieces(kind, piece, 100)).rows == 1
    with pytest.raises(InvalidRequest, match="too many pieces"):
        images().prepare(pieces(kind, piece, 20_000))


def test_pictures_in_many_chunks_of_ordinary_size_are_read() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (1000, 1000, 3), dtype=np.uint8))
    whole = encoded(noise)
    pixels = zlib.compress(zlib.decompress(b"".join(idat(whole))), 0)
    parts = b"".join(chunk(b"IDAT", pixels[at : at + 512]) for at in range(0, len(pixels), 512))
    assert images().prepare(whole[:33] + parts + chunk(b"IEND", b"")).rows == 1


def idat(png: bytes) -> list[bytes]:
    """The contents of its chunks of pixels."""
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            found.append(png[at + 8 : at + 8 + length])
        at += length + 12
    return found


def test_a_png_with_hundreds_of_colour_profiles_is_refused() -> None:
    profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_000_000), 9))
    assert images().prepare(pieces("PNG", profile, 1)).rows == 1
    with pytest.raises(InvalidRequest, match="more than one colour profile"):
        images().prepare(pieces("PNG", profile, 500))


def test_a_bmp_with_run_length_encoding_is_refused_with_what_to_do() -> None:
    runs = b"\x08\x01\0\0" * 8 + b"\0\1"
    head = struct.pack("<IHHIIiiHHIIiiII", 1078 + len(runs), 0, 0, 1078, 40, 8, 8, 1, 8, 1, len(runs), 0, 0, 256, 0)
    with pytest.raises(InvalidRequest, match="save it without"):
        images().prepare(b"BM" + head + bytes(1024) + runs)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "empty"),
        ("http://127.0.0.1/cat.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64", "without base64"),
        ("é", "not base64"),
        (base64.b64encode(b"not an image").decode(), "not a readable image"),
        ("", "not a readable image"),
        (encoded(RED)[:50], "image"),
        (png_header(8, 8), "damaged"),
        (encoded(RED, "TIFF"), "JPEG, PNG"),
        (7, "base64, not 7"),
        ([None], r"inputs\[0\]"),
        ({"image": "x"}, "base64"),
    ],
)
def test_what_is_no_image_is_refused(inputs: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        images().prepare(inputs)


@pytest.mark.parametrize(
    ("shape", "datatype", "options", "key"),
    [
        ((-1, 3, -1, -1), "FP32", {}, "input.width"),
        ((-1, 3, 2, 4), "FP32", {"width": 5}, "input.width"),
        ((-1, 3, 2, 4), "FP32", {"mode": "L"}, "input.mode"),
        ((-1, 3, 2, 4), "FP32", {"mean": [1]}, "input.mean"),
        ((-1, 3, 2, 4), "FP32", {"std": [1, 0, 1]}, "input.std"),
        ((-1, 3, 2, 4), "UINT8", {"scale": 0.5}, "input.scale"),
        ((-1, 3), "FP32", {}, "input.type"),
        ((-1, 3, 2, 4), "INT64", {}, "input.type"),
        ((-1, 3, 2, 4), "FP32", {"crop": 1}, "input.crop"),
        ((-1, 3, 2, 4), "FP32", {"resample": "best"}, "input.resample"),
    ],
)
def test_a_mistake_in_the_package_is_refused_with_its_key(
    shape: tuple[int, ...], datatype: str, options: dict[str, Any], key: str
) -> None:
    with pytest.raises(InvalidPackage, match=key):
        images(shape, datatype, **options)
