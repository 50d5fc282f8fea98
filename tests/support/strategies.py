"""Hypothesis strategies: objectives of every kind and groups of rewards with ties."""

import numpy as np
from hypothesis import strategies as st

from ordergrad import objectives as o
from ordergrad.objectives import combine

LEVEL = st.floats(0.01, 0.99)
SHARE = st.floats(0, 0.49)
NUMBER = st.floats(-1e6, 1e6)


def elementary(k_max: int = 20):
    """Return a strategy of single objectives of comparison size at most k_max."""
    k = st.one_of(st.integers(1, k_max), st.floats(1, k_max))
    open_k = st.none() | k
    sized = k.flatmap(lambda k: st.tuples(st.integers(1, int(k)), st.just(k)))
    bounds = st.tuples(LEVEL, LEVEL).filter(lambda b: b[1] - b[0] > 1e-8)
    return st.one_of(
        st.builds(o.Mean),
        st.builds(o.Gini) if k_max > 1 else st.nothing(),
        st.builds(o.LMoment, st.integers(1, min(k_max, 12))),
        st.lists(NUMBER, min_size=1, max_size=k_max).map(lambda a: o.Weights(*a)),
        *(st.builds(cls, k) for cls in (o.Max, o.Min, o.Midrange)),
        *(sized.map(lambda mk, cls=cls: cls(*mk)) for cls in (o.Top, o.Bottom, o.Rank, o.TopBottom)),
        *(st.builds(cls, LEVEL, open_k) for cls in (o.CVaR, o.UpperCVaR, o.VaR)),
        st.builds(lambda b, k: o.Range(*b, k), bounds, open_k),
        st.builds(o.Quantile, LEVEL, st.sampled_from(["hazen", "weibull", "blom", "harrelldavis"]), open_k),
        *(st.builds(cls, open_k) for cls in (o.Median, o.MaxRL)),
        *(st.builds(cls, SHARE, open_k) for cls in (o.Trimmed, o.Winsorized)),
        st.builds(o.Wang, st.floats(-3, 3), open_k),
        st.builds(o.Power, st.floats(0.1, 5), open_k),
        st.builds(o.Exponential, st.floats(-5, 5).filter(lambda g: abs(g) > 1e-3), open_k),
    )


def objectives(k_max: int = 20):
    """Return a strategy of single objectives and sums of them."""
    one = elementary(k_max)
    coefficient = st.floats(-100, 100).filter(bool)
    return one | st.lists(st.tuples(coefficient, one), min_size=1, max_size=3).map(lambda parts: combine(*parts))


def groups(n: int, count: int = 1, dtype: type = np.float64):
    """Return a strategy of (count, n) rewards, ties and extremes of scale included."""
    tied = st.sampled_from([-1.0, 0.0, 0.1, 1.0, 3.0])
    free = st.floats(-1e3, 1e3, width=32)
    numbers = st.lists(tied | free, min_size=n * count, max_size=n * count)
    return numbers.map(lambda r: np.array(r, dtype).reshape(count, n))
