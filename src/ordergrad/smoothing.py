"""Objectives whose error the jackknife can estimate.

The delete-one jackknife needs a smooth statistic. A sample quantile is not one: leaving a reward out moves it by one
gap between neighbours or not at all, and the error so estimated stays wrong at every N. The Harrell-Davis estimator of
the same quantile averages many gaps, has the same large-sample error, and a jackknife that is consistent.

References:
    Efron (1982). The Jackknife, the Bootstrap and Other Resampling Plans, section 3.4 (why it fails for the median).
    Harrell and Davis (1982). A new distribution-free quantile estimator. Biometrika 69(3).
"""

from ordergrad.objectives import Elementary, Median, Objective, Quantile, Trimmed, VaR, Winsorized, combine

__all__ = ["quantile_level", "smoothed"]


def quantile_level(part: Elementary) -> float | None:
    """Return q if an objective without @K is the population's q-quantile, otherwise None.

    Example:
        >>> quantile_level(VaR(0.1)), quantile_level(VaR(0.1, k=8))
        (0.1, None)
    """
    match part:
        case VaR(q=q, k=None) | Quantile(q=q, k=None):
            return q
        case Median(k=None):
            return 0.5
        case _:
            return None


def smoothed(objective: Objective) -> Objective:
    """Return an objective with the same large-sample error, and no jump in its spectrum's integral where K is open.

    Quantiles become their Harrell-Davis estimators, and so does the share of a winsorized mean that lies on its two
    quantiles. Everything else is returned as it is.

    Example:
        >>> from ordergrad.spec import parse
        >>> print(smoothed(parse("mean-0.5*var:0.1+max@4")))
        mean+max@4-0.5*quantile:0.1:harrelldavis
    """
    return combine(*((c * share, part) for c, term in objective.terms() for share, part in _smooth_parts(term)))


def _smooth_parts(term: Elementary) -> list[tuple[float, Elementary]]:
    q = quantile_level(term)
    if q is not None and q < 1:
        return [(1.0, Quantile(q, "harrelldavis"))]
    if isinstance(term, Winsorized) and term.k is None and term.p > 0:
        ends = [(term.p, Quantile(q, "harrelldavis")) for q in (term.p, 1 - term.p)]
        return [(1 - 2 * term.p, Trimmed(term.p)), *ends]
    return [(1.0, term)]
