"""What other programs read of what ingot writes, and ingot of what they write.

Used by interop.sh: INGOT is the program. Exits with 77 (skipped) when h5py or numpy is not installed; without safetensors
(Debian has no package of it) its part is left out, and that is said.
The inputs' bytes are made here; what ingot wrote is read by h5py, by numpy at the dataset's offset, and by
safetensors, and compared with them.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)
try:
    import safetensors
    import safetensors.numpy
except ImportError:
    safetensors = None
    print("the Python package safetensors is not installed: what it reads and writes was not tried")

INGOT = os.environ["INGOT"]
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1",
}
# What h5py calls the floats that NumPy does not have.
H5PY = {"BF16": "float32", "F8_E4M3": "float16", "F8_E5M2": "float16", "BOOL": "bool"}


def ingot(*words):
    subprocess.run([INGOT, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def make_tensors():
    """name -> (dtype, array of the stored bytes' type)"""
    rng = np.random.default_rng(1)
    tensors = {}
    for dtype, code in DTYPES.items():
        kind = np.dtype(code)
        shapes = {"vector": (257,), "matrix": (3, 5), "scalar": (), "empty": (0, 4)}
        for label, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            if dtype == "BOOL":
                values = rng.integers(0, 2, count, dtype="u1")
            elif kind.kind == "f":
                values = rng.standard_normal(count).astype(kind)
            elif dtype in ("F8_E4M3", "F8_E5M2"):
                values = np.arange(count, dtype="u1")
            elif dtype == "BF16":
                values = (rng.standard_normal(count).astype("<f4").view("<u4") >> 16).astype("<u2")
            else:
                values = np.frombuffer(rng.bytes(count * kind.itemsize), kind)
            tensors[f"{dtype.lower()}.{label}"] = (dtype, values.reshape(shape))
    tensors["path/with/slashes.weight"] = ("F32", np.arange(6, dtype="<f4").reshape(2, 3))
    return tensors


def write_safetensors(path, tensors):
    header, payload = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, values) in sorted(tensors.items(), key=lambda item: -item[1][1].dtype.itemsize):
        begin = len(payload)
        payload += values.tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [begin, len(payload)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


def bf16(values):
    return np.left_shift(values.astype("<u4").ravel(), np.uint32(16)).view("<f4").reshape(values.shape)


def float8(values, exponent_bits, bias, finite_only):
    """Values by the formula of the format, in float64."""
    mantissa_bits = 7 - exponent_bits
    sign = np.where(values & 0x80, -1.0, 1.0)
    exponent = ((values & 0x7F) >> mantissa_bits).astype(int)
    mantissa = (values & ((1 << mantissa_bits) - 1)).astype(float)
    top = (1 << exponent_bits) - 1
    normal = (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias)
    subnormal = mantissa / 2**mantissa_bits * 2.0 ** (1 - bias)
    out = sign * np.where(exponent == 0, subnormal, normal)
    if finite_only:
        return np.where((exponent == top) & (mantissa == 2**mantissa_bits - 1), np.nan, out)
    return np.where(exponent == top, np.where(mantissa == 0, sign * np.inf, np.nan), out)


def check_h5(path, tensors, side_files):
    with h5py.File(path, "r") as f:
        assert f.attrs["ingot_format_version"] == 1
        assert f.attrs["checksum_tile_elements"] == 1 << 20
        for name, (dtype, values) in tensors.items():
            dataset = f["tensors/" + name]
            assert dataset.shape == values.shape, name
            assert dataset.dtype == np.dtype(H5PY.get(dtype, values.dtype)), (name, dataset.dtype)
            assert dataset.attrs["checksum"].dtype == np.uint64
            found = dataset[()]
            if values.size == 0:
                continue
            offset = dataset.id.get_offset()
            assert offset % 4096 == 0, name
            raw = np.memmap(path, values.dtype, "r", offset, values.shape)
            assert raw.tobytes() == values.tobytes(), name
            if dtype == "BF16":
                assert np.array_equal(found, bf16(values)), name
            elif dtype == "F8_E5M2":
                assert np.array_equal(found.astype("f8"), float8(values, 5, 15, False), equal_nan=True), name
            elif dtype == "F8_E4M3":
                # HDF5 has infinities where this format has numbers: right up to 240 only, as docs/formats.md says.
                low = (values & 0x7F) < 0x78
                assert np.array_equal(found[low].astype("f8"), float8(values, 4, 7, True)[low]), name
            else:
                assert np.array_equal(found, values), name
        for name, text in side_files.items():
            assert f["files/" + name][()].tobytes() == text, name


def check_safetensors(paths, tensors):
    if not safetensors:
        return
    seen = set()
    for path in paths:
        for name, info in safetensors.deserialize(path.read_bytes()):
            dtype, values = tensors[name]
            assert info["dtype"] == dtype, name
            assert info["shape"] == list(values.shape), name
            assert bytes(info["data"]) == values.tobytes(), name
            seen.add(name)
        with safetensors.safe_open(path, framework="numpy") as f:
            assert f.metadata()["format"] == "pt"
    assert seen == set(tensors), set(tensors) - seen


def check_plain(folder):
    """What the Python library writes."""
    plain = {"w": np.arange(12, dtype="f4").reshape(3, 4), "n": np.array([1, 2], "i8")}
    safetensors.numpy.save_file(plain, folder / "plain.safetensors", {"format": "pt"})
    ingot("import", folder / "plain.safetensors", folder / "plain.h5")
    with h5py.File(folder / "plain.h5", "r") as f:
        for name, values in plain.items():
            assert np.array_equal(f["tensors/" + name][()], values)


def main():
    tensors = make_tensors()
    side_files = {"config.json": b'{"model_type": "test"}\n', "tokenizer.model": bytes(range(256))}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = folder / "model"
        model.mkdir()
        write_safetensors(model / "model.safetensors", tensors)
        for name, text in side_files.items():
            (model / name).write_bytes(text)
        ingot("import", model, folder / "model.h5")
        check_h5(folder / "model.h5", tensors, side_files)

        ingot("export", folder / "model.h5", folder / "shards", "--shard-size", "2000")
        index = json.loads((folder / "shards" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(v.nbytes for _, v in tensors.values())
        assert set(index["weight_map"]) == set(tensors)
        shards = sorted((folder / "shards").glob("*.safetensors"))
        assert len(shards) > 1 and {s.name for s in shards} == set(index["weight_map"].values())
        check_safetensors(shards, tensors)
        for name, text in side_files.items():
            assert (folder / "shards" / name).read_bytes() == text

        ingot("export", folder / "model.h5", folder / "one.safetensors")
        check_safetensors([folder / "one.safetensors"], tensors)

        if safetensors:
            check_plain(folder)
        try:
            dump = subprocess.run(["h5dump", "-H", folder / "model.h5"], check=True, capture_output=True, text=True)
            assert 'DATASET "bf16.vector"' in dump.stdout
        except FileNotFoundError:
            print("h5dump is not installed and was not tried")
    print(f"h5py {h5py.__version__} (HDF5 {h5py.version.hdf5_version}), safetensors {safetensors.__version__ if safetensors else 'none'}: "
          f"{len(tensors)} tensors agree")


main()
