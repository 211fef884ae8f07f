"""Twin of ``hdl.pulse_gen``: programs the tile once per pulse and counts devices; integers only, compiled."""

from model.analog import tile as analog
from model.compiled import borrowing
from model.events import INDEX
from model.isa import Kind

__all__ = ["cycles", "fire", "slot"]

_SET, _RESET = int(Kind.SET), int(Kind.RESET)
_SET_POS, _SET_NEG = INDEX["set_pos"], INDEX["set_neg"]
_SET_REFRESH, _RESET_REFRESH = INDEX["set_refresh"], INDEX["reset_refresh"]


@borrowing
def slot(u, kind):
    """Width and gap of one pulse [cycles]."""
    if kind == _RESET:
        return u.reset_cycles + u.reset_gap_cycles
    return u.set_cycles + u.set_gap_cycles


@borrowing
def cycles(u, kind, max_count):
    """From the accept of a train of ``max_count`` >= 1 pulses to the next ``ready`` [cycles]; ``hold`` not counted."""
    return 1 + max_count * slot(u, kind)


@borrowing
def fire(u, tile_constants, tile_state, rngs_program, counters, tile, walk, line, first, kind, refresh, counts, negative, sides,
         tick):
    """Pulse k = 0 .. max(counts) - 1 programs all lanes with counts > k; returns ``cycles``.

    ``counts`` int32 (lanes,), ``negative`` uint8 (lanes,): as in ``hdl.ports.PulseCommand``. ``sides`` uint8 (2, lanes): written.
    ``rngs_program``: ``Generators.program``.
    """
    pos, neg = sides
    most = 0
    for count in counts:
        most = max(most, count)
    for pulse in range(most):
        n_pos, n_neg = 0, 0
        for lane in range(counts.shape[0]):
            fires = counts[lane] > pulse
            pos[lane] = fires and negative[lane] == 0
            neg[lane] = fires and negative[lane] != 0
            n_pos += pos[lane]
            n_neg += neg[lane]
        if kind == _RESET:
            counters[_RESET_REFRESH] += n_pos + n_neg
        elif refresh:
            counters[_SET_REFRESH] += n_pos + n_neg
        else:
            counters[_SET_POS] += n_pos
            counters[_SET_NEG] += n_neg
        analog.program(tile_constants, tile_state, rngs_program, tile, walk, line, first, pos, neg, kind, tick)
    return cycles(u, kind, most)
