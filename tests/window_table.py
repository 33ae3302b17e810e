"""Small tables of windows, as stage 1 would write them."""

import numpy as np

from utils.dataset import Windows

NUMBERS = ("features", "start_s", "band_level_db")
NAMES = ("source", "group", "split", "sound_class", "mix_group", "mix_source")


def window_table(file, label, **columns):
    """Windows of these files with these labels (0 or 1); a column that is not given holds zeros, or empty strings."""
    n = len(file)
    numbers = {name: np.asarray(columns.pop(name, np.zeros((n, 34) if name == "features" else n)), float) for name in NUMBERS}
    names = {name: np.array(columns.pop(name, [""] * n), dtype=object) for name in NAMES}
    assert not columns, columns
    return Windows(file=np.array(file, dtype=object), label=np.array(label, dtype=int), **numbers, **names)
