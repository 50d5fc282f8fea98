"""The folder that ``ordergrad score ... --out OUT`` writes.

```
OUT/
  config.json        kind "score", the exact command, settings and package versions
  results.json       everything below as one object
  values.csv         log, objective, value, error, low, high, groups, too_small
  signal.csv         log, objective, groups, too_small, no_signal, effective, effective_share, rows
  curves.csv         log, curve, k, value, error, low, high, groups
  tails.csv          log, statistic, value
  quantiles.csv      log, u, reward
  steps.csv          log, step, objective, value, error, groups (where the logs have steps)
  comparisons.csv    log, against, objective, difference, error, low, high, p_value, method, pairs
  broken.csv         log, file, place, number, reason (the first broken rows, where any were skipped)
```

``log`` is the name of a log, unique in the folder. ``low`` and ``high`` are the ends of the 95% interval, Student's
over groups. A number that is not known (the error of a value without groups) is null in JSON and empty in CSV.

- ``values``: the mean over groups of the unbiased estimate of each group; ``groups`` is how many were large enough,
  ``too_small`` how many were not. With one group the error is the jackknife's.
- ``signal``: the gradient under each objective, and under ``grpo``. ``no_signal`` is the share of groups with all
  advantages zero, ``effective`` the mean over the other groups of (Σ|A|)² / ΣA², ``effective_share`` the same ratio
  over all rows together, divided by their number ``rows``.
- ``curves``: ``curve`` is ``pass`` (pass@k) or ``max`` (max@k); k = 1, 2, 4, ..., and the largest group's size.
- ``tails``: statistics of all rewards pooled, groups aside, by their objective string (``cvar:0.05``, ``var:0.05``,
  ``median``, ``uppercvar:0.05``, ...).
- ``quantiles``: the quantile function of all rewards pooled, ascending u from 0 (smallest) to 1 (largest); the levels
  are dense at both ends.
- ``comparisons``: each log against the first, ``difference`` = log - against, ``method`` is ``paired`` (over the
  ``pairs`` of groups with the same id) or ``welch`` (no ids in common).

``results.json`` is one object: ``objectives``, ``success`` (the threshold of pass@k), ``logs``, ``comparisons`` and
``broken``. Each of ``logs`` has ``log`` (its name), ``files``, the numbers of ``rows`` that were read, ``used``
(ranked), ``masked`` and ``broken`` ones, ``groups``, their ``smallest`` and ``largest`` size, the ``mean``, ``sd``,
``min`` and ``max`` of all used rewards, ``exact_quantiles`` (whether the pooled distribution was kept whole),
``scattered`` (whether groups were not contiguous), and the rows of the tables as objects: ``values``, ``signal``,
``curves``, ``tails``, ``quantiles``, ``steps``.
"""
