r"""Objectives: which ranks of K sorted rewards to optimise, and with what weight.

An objective is a vector of rank weights $\alpha_1, \dots, \alpha_K$ for ascending ranks (rank 1 is the worst reward,
rank K the best). It stands for $J = E[\sum_j \alpha_j R_{(j:K)}]$ with K independent rewards. Higher reward is better;
a lower-tail objective looks at the bad outcomes. Objectives are frozen dataclasses: hashable, picklable, and closed
under ``+``, ``-``, multiplication and division by a number. Their repr evaluates, their string parses.

There are three kinds, by how the comparison size K is set:

* *fixed* (`Mean`, `Gini`, `LMoment`, `Weights`): K follows from the definition;
* *counting* (`Max`, `Min`, `Top`, `Bottom`, `Rank`, `TopBottom`, `Midrange`): K is part of the objective;
* *level* (`CVaR`, `VaR`, `Quantile`, `Trimmed`, distortions, ...): K may be left open (``k=None``). It is then the
  largest one that the group allows (N for the value, N - 1 for advantages), and where there is no group the objective
  is that of the population (K to infinity).

A real K mixes its two neighbours, $(1-f) J_{\lfloor K \rfloor} + f J_{\lceil K \rceil}$ with f the fractional part.

References:
    Parmas et al. (2026). OrderGrad: Optimizing Beyond the Mean with Order-Statistic Policy Gradient Estimation.
        arXiv 2606.06096.
    David and Nagaraja (2003). Order Statistics, 3rd edition, Wiley.
"""

from ordergrad.objectives.bands import CVaR, Range, Trimmed, UpperCVaR, Winsorized
from ordergrad.objectives.base import Counting, Elementary, Fixed, Level, Mixture, Objective, combine
from ordergrad.objectives.checks import real_number, whole_number
from ordergrad.objectives.counting import Bottom, Max, Midrange, Min, Rank, Top, TopBottom, every_rank
from ordergrad.objectives.distortions import Exponential, MaxRL, Power, Wang
from ordergrad.objectives.fixed import Gini, LMoment, Mean, Weights
from ordergrad.objectives.quantiles import Median, Quantile, VaR
from ordergrad.objectives.spectrum import Spectrum

__all__ = [
    "Bottom",
    "CVaR",
    "Counting",
    "Elementary",
    "Exponential",
    "Fixed",
    "Gini",
    "LMoment",
    "Level",
    "Max",
    "MaxRL",
    "Mean",
    "Median",
    "Midrange",
    "Min",
    "Mixture",
    "Objective",
    "Power",
    "Quantile",
    "Range",
    "Rank",
    "Spectrum",
    "Top",
    "TopBottom",
    "Trimmed",
    "UpperCVaR",
    "VaR",
    "Wang",
    "Weights",
    "Winsorized",
    "combine",
    "every_rank",
    "real_number",
    "whole_number",
]
