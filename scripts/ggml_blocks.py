"""Writes crates/chelsea-linear/tests/golden/ggml-blocks.bin: random GGML blocks of every supported type
and the numbers they stand for, as the gguf package decodes them.

Made with gguf 0.19.0 and numpy 2.4.6 (pip install gguf==0.19.0 numpy==2.4.6).

Format, little-endian, one record a type: type u32, weights u32, bytes u32, blocks, weights as f32.
"""

import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# Byte offsets of half-precision numbers in a block: random bits there would often be NaN.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
}
SIZES = {
    T.Q4_0: (32, 18), T.Q4_1: (32, 20), T.Q5_0: (32, 22), T.Q5_1: (32, 24), T.Q8_0: (32, 34),
    T.Q2_K: (256, 84), T.Q3_K: (256, 110), T.Q4_K: (256, 144), T.Q5_K: (256, 176), T.Q6_K: (256, 210),
    T.IQ4_NL: (32, 18), T.IQ4_XS: (256, 136), T.MXFP4: (32, 17),
}


def record(ty, data, numbers):
    data = np.ascontiguousarray(data).tobytes()
    numbers = np.asarray(numbers, dtype="<f4").ravel()
    return struct.pack("<III", int(ty), numbers.size, len(data)) + data + numbers.tobytes()


def main():
    rng = np.random.default_rng(2024)
    out = []
    for ty, (length, size) in SIZES.items():
        blocks = rng.integers(0, 256, (512 // length, size), dtype=np.uint8)
        for at in HALVES[ty]:
            halves = rng.normal(0, 0.05, len(blocks)).astype("<f2")
            blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
        if ty == T.MXFP4:
            # Exponents of numbers of everyday size, and the two smallest, whose powers are not normal numbers.
            blocks[:, 0] = rng.integers(118, 132, len(blocks))
            blocks[:2, 0] = [0, 1]
        out.append(record(ty, blocks, dequantize(blocks, ty)))
    numbers = rng.normal(0, 1, 64).astype("<f4")
    out.append(record(T.F32, numbers, numbers))
    out.append(record(T.F16, numbers.astype("<f2"), numbers.astype("<f2")))
    top = (numbers.view("<u4") >> 16).astype("<u2")
    out.append(record(T.BF16, top, (top.astype("<u4") << 16).view("<f4")))
    path = pathlib.Path(__file__).parent.parent / "crates/chelsea-linear/tests/golden/ggml-blocks.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(out))


if __name__ == "__main__":
    main()
