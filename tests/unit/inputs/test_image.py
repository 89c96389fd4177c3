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
from PIL import Image

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
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

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


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
