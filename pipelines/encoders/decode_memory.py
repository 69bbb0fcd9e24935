"""Memory of image decoders: what one image takes while it is decoded, and the bound for all threads of a process.

Owns the bytes per pixel of each format, measured with Pillow 13 as the peak of a process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, _imaging

_BYTES_PER_PIXEL = {"WEBP": 16, "JPEG2000": 20, "AVIF": 8}
_OTHER_BYTES_PER_PIXEL = 5
# A progressive JPEG holds the coefficients of all its pixels, at whatever scale it is decoded.
_PROGRESSIVE_BYTES_PER_PIXEL = 6
_SMALL_BYTES = 8 << 20
# A decoder that hangs must not stop the others for ever.
_LONGEST_WAIT_S = 10.0
# An image is one block of memory: from 32 MiB on, glibc returns it to the system when it is freed. Of Pillow's own
# blocks of 16 MiB each thread keeps its share: 8 threads that decoded PNGs of 48 million pixels, two at a time, held
# 1,630 MiB; with this 492.
_BLOCK_BYTES = 1 << 30
_imaging.set_block_size(_BLOCK_BYTES)


class _Budget:
    """Bytes in use by the decoders of this process."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._used = 0

    @contextmanager
    def hold(self, nbytes: int, most: int) -> Iterator[None]:
        with self._turn, self._changed:  # in turn, so that small images do not keep a large one waiting
            self._changed.wait_for(lambda: self._used + nbytes <= most, _LONGEST_WAIT_S)
            self._used += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= nbytes
                self._changed.notify_all()


_BUDGET = _Budget()


@contextmanager
def bounded_decode(file: Image.Image, full_pixels: int, max_pixels: int) -> Iterator[None]:
    """Wait until an image can be decoded beside those that other threads decode.

    All of them together take what one image of `max_pixels` takes, 5 bytes a pixel; one that needs more than that is
    decoded alone. Small images do not wait.

    Args:
        file: The opened image, with its draft size set and nothing decoded.
        full_pixels: Its pixels at full size.
        max_pixels: `limits.max_pixels`.
    """
    nbytes = file.width * file.height * _BYTES_PER_PIXEL.get(file.format or "", _OTHER_BYTES_PER_PIXEL)
    if file.info.get("progressive"):
        nbytes += full_pixels * _PROGRESSIVE_BYTES_PER_PIXEL
    if nbytes <= _SMALL_BYTES:
        yield
        return
    most = max_pixels * _OTHER_BYTES_PER_PIXEL
    with _BUDGET.hold(min(nbytes, most), most):
        yield
