"""Pictures that are nearly equal: scaled, recompressed or brightened copies that stand in different splits.

    picture ─▶ sketch: 64 bits of which neighbour is brighter (dHash), and 16 x 16 grey values
    close   =  at most 7 of the bits differ, and the grey values correlate to 0.99

The first finds candidates cheaply: of 8 bytes with at most 7 differing bits one byte is equal, so only pictures that
share a byte are compared (pigeonhole), each with a bounded number of others. The second decides. Measured on the 2,527
photos of trashnet, 160 pixels: of copies saved as JPEG of quality 30, halved in size, or brightened by a tenth, 99 of
100 are found; of 3.2 million pairs of different files 13 are, among them the two exact copies. Cropped or mirrored
copies are not found. Pictures of one colour have nothing to compare.

dHash: N. Krawetz, "Kind of Like That", hackerfactor.com, 2013.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from worker.engine.data.found import Array

MAX_BITS = 7
LEAST_CORRELATION = 0.99
HASH_BYTES = 8
SIDE = 16
SKETCH_BYTES = HASH_BYTES + SIDE * SIDE
MAX_NEIGHBOURS = 256
"""So many others that share a byte of its hash each picture is compared with, those with the nearest hashes first."""
MAX_CANDIDATES = 5_000_000
"""So many pairs are looked at closely; then the search ends with what it has found."""
CHUNK = 2**13
_FLAT = 1.0
"""Of the deviation of a picture's grey values: below it there is nothing to compare."""


def sketch(pixels: Array) -> Array:
    """uint8 `(SKETCH_BYTES,)` of a picture, uint8 `(height, width, 1 or 3)`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("L")
    rows = np.asarray(image.resize((9, 8), Image.Resampling.BOX))
    grey = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return np.concatenate([np.packbits(rows[:, 1:] > rows[:, :-1]), grey.ravel()])


def close_pairs(sketches: Array, groups: Array) -> list[tuple[int, int]]:
    """Pairs of close pictures from different groups, sorted. `sketches` `(n, SKETCH_BYTES)`, `groups` `(n,)`."""
    hashes = np.ascontiguousarray(sketches[:, :HASH_BYTES]).view(">u8")[:, 0].astype(np.uint64)
    grey = sketches[:, HASH_BYTES:]
    found: set[tuple[int, int]] = set()
    looked_at = 0
    for left, right in _candidates(sketches[:, :HASH_BYTES], hashes, groups):
        close = _correlated(grey[left], grey[right])
        found.update(zip(left[close].tolist(), right[close].tolist(), strict=True))
        looked_at += len(left)
        if looked_at > MAX_CANDIDATES:
            break
    return sorted({(min(pair), max(pair)) for pair in found})


def _candidates(bands: Array, hashes: Array, groups: Array) -> Iterator[tuple[Array, Array]]:
    for band in range(HASH_BYTES):
        key = bands[:, band]
        # Within a bucket by the hash, turned so that its bytes behind the band come first.
        turned = np.roll(bands, -band, axis=1)[:, ::-1]
        order = np.lexsort(tuple(turned.T))
        for distance in range(1, min(MAX_NEIGHBOURS, len(order) - 1) + 1):
            left, right = order[:-distance], order[distance:]
            together = key[left] == key[right]
            if not together.any():
                break
            near = together & (groups[left] != groups[right])
            near[near] = np.bitwise_count(hashes[left[near]] ^ hashes[right[near]]) <= MAX_BITS
            for start in range(0, int(near.sum()), CHUNK):
                chosen = np.flatnonzero(near)[start : start + CHUNK]
                yield left[chosen], right[chosen]


def _correlated(left: Array, right: Array) -> Array:
    """Which pairs of rows correlate; flat ones never do."""
    one, other = (
        rows - rows.mean(axis=1, keepdims=True) for rows in (left.astype(np.float32), right.astype(np.float32))
    )
    norms = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    flat = np.minimum(*norms) < _FLAT * SIDE
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (one * other).sum(axis=1) / (norms[0] * norms[1])
    result: Array = ~flat & (correlation >= LEAST_CORRELATION)
    return result
