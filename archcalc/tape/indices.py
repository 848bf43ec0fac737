"""Layer indices as text: (0, 1, 2, 5) is `0-2,5`."""

from __future__ import annotations

from collections.abc import Sequence


def runs(indices: Sequence[int]) -> list[list[int]]:
    """First and last of each run of indices: (0, 1, 2, 5) is [0, 2], [5, 5]."""
    if isinstance(indices, range) and indices:
        return [[indices[0], indices[-1]]]
    found: list[list[int]] = []
    for i in indices:
        if found and i == found[-1][1] + 1:
            found[-1][1] = i
        else:
            found.append([i, i])
    return found


def ranges(indices: Sequence[int]) -> str:
    """Indices as text: (0, 1, 2, 5) is `0-2,5`."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(indices))
