"""The step from which a curve falls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FEWEST = 6


@dataclass(frozen=True)
class Fall:
    """A curve that is level, and falls along a line from some step on to the last one.

    ``before`` is the level, ``after`` the value of the line at the end; ``low`` and ``high`` (below 0) are the ends of
    the 95% interval of the change.
    """

    start: float
    end: float
    before: float
    after: float
    low: float
    high: float


def fall_of(steps: Sequence[float], values: Sequence[float]) -> Fall | None:
    """Return from which step on (of ascending ones) values fall, None if they do not beyond their 95% interval.

    The broken line is fitted by least squares for every step at which it may break, at least three before the last; the
    best of them counts. The interval is Student's, from the scatter about the line, with the level of Bonferroni for
    the number of steps that were tried.

    Example:
        >>> fall = fall_of(range(8), [1.0, 1.02, 0.99, 1.0, 0.91, 0.8, 0.71, 0.6])
        >>> fall.start, round(fall.after - fall.before, 2)
        (3, -0.4)
    """
    from scipy.special import stdtrit

    t, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    n = len(t)
    if n < _FEWEST or np.ptp(y) == 0:
        return None
    starts = range(n - 3)
    fits: list[tuple[float, int, float, float, float]] = []
    for start in starts:
        x = np.maximum(t - t[start], 0.0)
        centred = x - x.mean()
        slope = float(centred @ y / (centred @ centred))
        level = float(y.mean() - slope * x.mean())
        rest = float(((y - level - slope * x) ** 2).sum())
        fits.append((rest, start, level, slope, float(centred @ centred)))
    rest, start, level, slope, spread = min(fits)
    half = float(stdtrit(n - 3, 1 - 0.025 / len(starts))) * (rest / (n - 3) / spread) ** 0.5
    if slope + half >= 0:
        return None
    reach = t[-1] - t[start]
    ends = float(reach * (slope - half)), float(reach * (slope + half))
    return Fall(steps[start], steps[-1], level, level + float(slope * reach), *ends)
