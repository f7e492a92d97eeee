#!/usr/bin/env python3
"""Writes old_format.h5: a file as h5py writes it unless told otherwise (superblock 0), read by test_hdf5_old.c.

Made with h5py 3.7.0 (HDF5 1.10.8): /usr/bin/python3 old_format.py old_format.h5
"""
import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1], "w") as f:
    f["model.embed.weight"] = np.arange(6, dtype="f4").reshape(2, 3) / 2
    f["layers/0/mask"] = np.array([True, False])
    f["layers/0/half"] = np.array([1.5, -2.0], "f2")
    f["step"] = np.int64(-7)
    f["none"] = np.zeros((0, 3), "f8")
    f["ids"] = np.array([7, 65535, 0], "u2")
    f.attrs["note"] = "a text of variable length"
    for i in range(40):  # attributes continue the header elsewhere
        f["ids"].attrs[f"attribute {i}"] = np.arange(i)
