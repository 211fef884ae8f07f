"""Twin of ``hdl/vector_memory.py``: the memory is one flat array ``vec``, int32[vector_words * vector_width].

Element e of word w is ``vec[w * vector_width + e]``; the other twins index it directly.
"""
import numpy as np

from model.compiled import compiled
from model.params import UnitConstants

__all__ = ["new", "read", "write"]


def new(u: UnitConstants) -> np.ndarray:
    """A memory of zeros (the RTL's content after power-up is undefined)."""
    return np.zeros(u.vector_words * u.vector_width, np.int32)


@compiled
def read(u, vec, addr):
    """The elements of word ``addr``, as a view."""
    return vec[addr * u.vector_width:(addr + 1) * u.vector_width]


@compiled
def write(u, vec, addr, mask, data):
    """Store ``data[e]`` at every element e of word ``addr`` whose bit in ``mask`` is 1."""
    for element in range(u.vector_width):
        if mask >> element & 1:
            vec[addr * u.vector_width + element] = data[element]
