"""Input type `image`: a sample is an encoded picture, in base64 or as the whole body; decoded and resized here."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
import numpy as np
from msgspec import Meta
from PIL import Image
from PIL.ImageFile import ImageFile

from seaway.errors import InvalidRequest, PayloadTooLarge
from seaway.inputs.arrays import DTYPES
from seaway.inputs.base import Array, Form, Samples, at, counts_samples, only_tensor, reject, shown, split, stack
from seaway.packages import PackageSpec
from seaway.packages.spec import convert
from seaway.types import Signature, TensorSpec

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Decoders that a caller can reach; the library has many more, seldom used and so seldom attacked by its testers."""
MAX_IMAGES = 64
"""Images of a request, where the package says nothing: a tiny file becomes a tensor of the graph's size."""
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST, "box": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip

SCANS_A_PIXEL = 20
"""How often the pixels of a request may be gone through: `max_pixels` times this, of which a progressive JPEG takes a
part for each of its scans (as a rule 10, of CMYK 18). A scan costs 35 ms at 50 million pixels, 120 with arithmetic
coding, even one of 10 bytes, and nothing can end it: so up to 2.5 s."""
_LEAST_PIXELS = 1_000_000
_SCAN_MARGIN = 63
"""Added to both sides: a scan has at least a block and tables to make, and decodes whole blocks."""
_READS, _BYTES_A_READ = 2_000, 64
"""Headers are read by Python, a microsecond for each piece: a file may consist of so many, and one more for so many
bytes. 64 MB of empty segments took half a minute."""
_COLOUR_PROFILES = 4
"""Of a PNG, which has one; unpacking each may take 2 ms, and 5 MB held 5,000. Pixels may look like the name, too."""
_EXIF, _EXIF_PIECES = b"Exif\0\0", 64
"""Of a JPEG, in segments of 64 kB; the library joins them one by one, which took half a minute for 60,000 of them."""
_JPEG, _START_OF_SCAN = b"\xff\xd8\xff", b"\xff\xda"
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
"""Those that end what is coded. A decoder that looks for the number of a restart passes over smaller ones, and over
nothing behind them. All but two have a length after them."""
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

# `max_pixels` below is the limit, checked from the header before anything is decoded; the library's own only warns.
Image.MAX_IMAGE_PIXELS = None

Size = Annotated[int, Meta(ge=1, le=65_535)]


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    width: Size | None = None
    """Default: what the graph says."""
    height: Size | None = None
    mode: Literal["RGB", "L"] = "RGB"
    resample: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    scale: float | None = None
    """Multiplies the 0-255 values first. Default: 1/255 where the graph takes floats, 1 where it takes integers."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    max_pixels: Annotated[int, Meta(ge=1)] = 50_000_000
    """Of all images of a request, before they are resized."""


class ImageInput:
    """Pictures as tensors of one size: (pixels * scale - mean) / std."""

    gives_masks = False
    pads = False
    padding = None
    takes_bytes = True

    def __init__(self, options: ImageOptions, signature: Signature, tensor: TensorSpec, limit: int) -> None:
        self.options = options
        self._limit = limit
        self._signature = signature
        self._tensor = tensor
        self._dtype = DTYPES[tensor.datatype]
        assert options.width is not None and options.height is not None and options.scale is not None  # noqa: S101, PT018
        self._size = (options.width, options.height)
        self._scale = np.float32(options.scale)
        self._mean = np.asarray(options.mean, dtype=np.float32) if options.mean else None
        self._std = np.asarray(options.std, dtype=np.float32) if options.std else None

    @classmethod
    def open(cls, package: Path, spec: PackageSpec, signature: Signature) -> Self:
        options = convert(spec.input.options, ImageOptions, "input")
        tensor = only_tensor(signature, "type")
        _check_tensor(tensor)
        options = _with_defaults(options, tensor)
        _check_channels(options, tensor)
        return cls(options, signature, tensor, spec.serving.max_batch_size or MAX_IMAGES)

    def prepare(self, inputs: Any) -> Samples:
        samples, bare = split(inputs, lambda value: isinstance(value, str | bytes), limit=self._limit)
        pixels_left = self.options.max_pixels
        scanned_left = SCANS_A_PIXEL * max(pixels_left, _LEAST_PIXELS)
        rows = []
        for number, sample in enumerate(samples):
            content = _content(sample, at(number, bare=bare))
            image = _open(content, at(number, bare=bare))
            pixels_left -= image.width * image.height
            if pixels_left < 0:
                raise PayloadTooLarge(
                    f"The images have more than {self.options.max_pixels} pixels in all (input.max_pixels); "
                    "send smaller ones or fewer."
                )
            if content.startswith(_JPEG):
                assert isinstance(image, ImageFile)  # noqa: S101 - narrows the type
                # In one piece: what ends within a run of fill bytes is gone through again with each piece.
                image.decodermaxblock = len(content)
                scanned_left -= _scanned(content, image, scanned_left)
                if scanned_left < 0:
                    raise PayloadTooLarge(
                        f"{at(number, bare=bare)} is a JPEG of so many scans that decoding it takes too long; "
                        "save it as an ordinary one (baseline, or progressive with about 10 scans)."
                    )
            rows.append(self._pixels(image, at(number, bare=bare)))
        return stack(self._signature, {self._tensor.name: np.stack(rows)}, rows=len(rows), bare=bare)

    def forms(self) -> Sequence[Form]:
        return ()

    def examples(self) -> Sequence[Any]:
        file = io.BytesIO()
        Image.new(self.options.mode, (8, 8), 127 if self.options.mode == "L" else (127, 127, 127)).save(file, "PNG")
        text = base64.b64encode(file.getvalue()).decode()
        return [text, [text] * 2]

    def _pixels(self, image: Image.Image, where: str) -> Array:
        try:
            resized = image.convert(self.options.mode).resize(self._size, RESAMPLING[self.options.resample])
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
            raise InvalidRequest(f"{where} is a damaged image: {error}.") from error
        raw = np.asarray(resized)
        raw = raw[:, :, np.newaxis] if raw.ndim == 2 else raw
        if self._dtype.kind in "iu" and self._scale == 1 and self._mean is None and self._std is None:
            array = raw.astype(self._dtype)
        else:
            array = raw * self._scale
            array = array if self._mean is None else array - self._mean
            array = array if self._std is None else array / self._std
            array = array.astype(self._dtype)
        return np.ascontiguousarray(array.transpose(2, 0, 1)) if self.options.layout == "NCHW" else array


class _Pieces(io.BytesIO):
    """A file that says no to whoever reads it in ever so many small pieces."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left = _READS + len(content) // _BYTES_A_READ

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise _TooManyPieces("it consists of too many pieces for its size")
        return super().read(size)


class _TooManyPieces(ValueError):
    pass


def _open(content: bytes, where: str) -> Image.Image:
    """The image with only its header read."""
    if content.startswith(b"\x89PNG") and content.count(b"iCCP") > _COLOUR_PROFILES:
        raise InvalidRequest(f"{where} is a damaged image: it has more than one colour profile.")
    if content.startswith(_JPEG) and content.count(_EXIF) > _EXIF_PIECES:
        raise InvalidRequest(f"{where} is a damaged image: its Exif data is in more than {_EXIF_PIECES} pieces.")
    try:
        image = Image.open(_Pieces(content), formats=FORMATS)
    except _TooManyPieces as error:
        raise InvalidRequest(f"{where} is a damaged image: {error}.") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise InvalidRequest(f"{where} is not a readable image; accepted are {', '.join(FORMATS)}.") from error
    if any(tile[0] == "bmp_rle" for tile in image.tile):
        # The library unpacks them in Python: 6 s for 29 kB.
        raise InvalidRequest(f"{where} is a run-length encoded BMP, which is not read; save it without, or as PNG.")
    return image


def _scanned(content: bytes, image: Image.Image, most: int) -> int:
    """How many pixels decoding a JPEG goes through, all its scans together; counted no further than past `most`.

    >>> _scanned(b"\\xff\\xd8\\xff\\xda\\0\\2\\xff\\xda\\0\\2\\xff\\xd9", Image.new("L", (37, 37)), 10**6)
    20000
    """
    each = (image.width + _SCAN_MARGIN) * (image.height + _SCAN_MARGIN)
    # More than there are, as other images in the file, a thumbnail or a film behind it, are searched too: in time of
    # nearly nothing, and mostly enough.
    scans = content.count(_START_OF_SCAN)
    return (scans if scans * each <= most else _scans(content, most // each + 1)) * each


def _scans(content: bytes, most: int) -> int:
    """How many scans a JPEG has, as its decoder finds them; `most` where that or its segments are too many."""
    position = scans = 0
    for _ in range(_READS + len(content) // _BYTES_A_READ):
        found = _MARKER.search(content, position)
        if found is None or scans >= most:
            return scans
        position, kind = found.end(), found[1][0]
        if kind == _EOI and scans:
            return scans  # before the first scan it ends tables of their own, and the image follows
        if kind not in {_SOI, _EOI}:
            scans += kind == _SOS
            # What is coded follows a scan's header: 0xff in it has a 0 behind it, or the number of a restart.
            position += max(2, int.from_bytes(content[position : position + 2], "big"))
    return most


def _content(sample: Any, where: str) -> bytes:
    return sample if isinstance(sample, bytes) else _decode_base64(sample, where)


def _decode_base64(sample: Any, where: str) -> bytes:
    if not isinstance(sample, str):
        raise InvalidRequest(f"{where} must be an image in base64, not {shown(sample)}.")
    if sample.startswith("data:"):
        head, comma, sample = sample.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidRequest(f"{where} is a data URL without base64; write data:image/png;base64,...")
    try:
        return base64.b64decode(sample, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{where} is not base64; send the image itself (URLs are not fetched).") from error


# --------------------------------------------------------------------------- reading seaway.yaml


def _check_tensor(tensor: TensorSpec) -> None:
    if len(tensor.shape) != 4 or not counts_samples(tensor):
        shape = list(tensor.shape)
        reject("type", f"image needs a graph input of 4 dimensions, the first -1 or 1; {tensor.name!r} has {shape}.")
    if tensor.datatype not in {"UINT8", "FP16", "FP32", "FP64"}:
        reject("type", f"image needs a graph input of UINT8, FP16, FP32 or FP64; {tensor.name!r} is {tensor.datatype}.")


def _with_defaults(options: ImageOptions, tensor: TensorSpec) -> ImageOptions:
    """Size from the graph where it is fixed there, and it must not contradict it."""
    height, width = tensor.shape[2:] if options.layout == "NCHW" else tensor.shape[1:3]
    for key, wanted, found in (("width", options.width, width), ("height", options.height, height)):
        if wanted is None and found == -1:
            reject(key, "the graph takes any size, so this must say one.")
        if wanted is not None and found not in {-1, wanted}:
            reject(key, f"{wanted} is not what the graph's input {tensor.name!r} takes: {found}.")
    scale = options.scale
    if scale is None:
        scale = 1.0 if tensor.datatype == "UINT8" else 1 / 255
    return msgspec.structs.replace(options, width=options.width or width, height=options.height or height, scale=scale)


def _check_channels(options: ImageOptions, tensor: TensorSpec) -> None:
    channels = 3 if options.mode == "RGB" else 1
    found = tensor.shape[1 if options.layout == "NCHW" else 3]
    if found not in {-1, channels}:
        reject("mode", f"{options.mode} has {channels} channels; the graph's input takes {found} ({options.layout}).")
    for key, values in (("mean", options.mean), ("std", options.std)):
        if values and len(values) != channels:
            reject(key, f"{len(values)} values for {channels} channels.")
        if not all(np.isfinite(values)) or (key == "std" and 0 in values):
            reject(key, "must be finite, and not 0 for std.")
    plain = options.scale == 1 and not options.mean and not options.std
    if tensor.datatype == "UINT8" and not plain:
        reject("scale", "the graph takes UINT8, so scale, mean and std must be left out.")
