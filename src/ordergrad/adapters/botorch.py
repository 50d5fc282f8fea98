r"""BoTorch: any objective as a risk measure over perturbations of the inputs or over environmental conditions.

    risk = OrderGradRiskMeasure("cvar:0.1@16", n_w=16)
    acquisition = qNoisyExpectedImprovement(model, X_baseline, objective=risk)

The model's input transform (``InputPerturbation``, ``AppendFeatures``) turns every candidate into ``n_w`` points; the
objective is the value of their ``n_w`` outcomes in each posterior sample, differentiable in the candidates. Larger
outcomes are better, and tails are lower tails, as in BoTorch. Levels without ``@K`` take K = n_w: the
measure of the perturbations there are. A smaller K is an unbiased estimate of what K independent perturbations give.

BoTorch's own measures are objectives of ranks too. With $m = n_w - \lceil \alpha n_w \rceil + 1$ and K = n_w,

=======================  ==========================================================================================
``Expectation(n_w)``     ``mean``
``WorstCase(n_w)``       ``min@K``
``VaR(alpha, n_w)``      ``rank:j@K`` with $j = \lceil \alpha n_w \rceil$: the best of the m worst
``CVaR(alpha, n_w)``     ``bottom:m@K``, the mean of the m worst: a tail of m/n_w, which is more than 1 - alpha
=======================  ==========================================================================================

``cvar:q@K`` with q = 1 - alpha is the mean of exactly the share q, with a fraction of the outcome at the boundary.

References:
    Cakmak et al. (2020). Bayesian Optimization of Risk Measures. NeurIPS 33.
    Balandat et al. (2020). BoTorch: A Framework for Efficient Monte-Carlo Bayesian Optimization. NeurIPS 33.
    Rockafellar and Uryasev (2002). Conditional value-at-risk for general loss distributions. (the fractional tail)
"""

from collections.abc import Callable

from ordergrad.estimators import value
from ordergrad.extras import extra
from ordergrad.objectives import Objective
from ordergrad.spec import parse
from ordergrad.weights import smallest_group

with extra("botorch"):
    from botorch.acquisition.risk_measures import RiskMeasureMCObjective
    from torch import Tensor

__all__ = ["OrderGradRiskMeasure"]


class OrderGradRiskMeasure(RiskMeasureMCObjective):
    """An objective of ranks as an objective of BoTorch's Monte-Carlo acquisition functions.

    Args:
        objective: An objective or its string, K at most `n_w`. Levels without @K take K = n_w.
        n_w: The number of points that the model's input transform makes of every candidate.
        preprocessing_function: Turns samples of several outputs into one, as in BoTorch's own risk measures: from
            shape (..., q * n_w, m) to (..., q * n_w). For minimisation ``LinearMCObjective(torch.tensor([-1.0]))``.

    Raises:
        ValueError: `n_w` is not a positive whole number, or K is above it.
        TypeError: `objective` is neither a string nor an objective.

    Example:
        >>> import torch
        >>> risk = OrderGradRiskMeasure("cvar:0.375@4", n_w=4)
        >>> samples = torch.tensor([[[0.0], [3.0], [1.0], [2.0], [5.0], [5.0], [8.0], [9.0]]])  # q = 2
        >>> risk(samples)  # one and a half of four
        tensor([[0.3333, 5.0000]])
    """

    def __init__(
        self,
        objective: str | Objective,
        n_w: int,
        preprocessing_function: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if isinstance(n_w, bool) or not isinstance(n_w, int) or n_w < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"n_w must be a positive whole number; got {n_w!r}")
        super().__init__(n_w=n_w, preprocessing_function=preprocessing_function)
        self.objective = parse(objective)
        need = smallest_group(self.objective, "value")
        if need > n_w:
            raise ValueError(f"n_w must be at least the comparison size {need} of {self.objective}; got n_w={n_w}")

    def forward(self, samples: Tensor, X: Tensor | None = None) -> Tensor:  # noqa: N803
        """Return the value of every candidate's outcomes in every posterior sample.

        Args:
            samples: Posterior samples of shape (sample_shape, batch_shape, q * n_w, m), the n_w points of a candidate
                next to each other.
            X: Unused.

        Returns:
            A tensor of shape (sample_shape, batch_shape, q).

        Raises:
            ValueError: The number of points is no multiple of `n_w`, or samples are NaN or infinite.
        """
        if samples.shape[-2] % self.n_w != 0:
            raise ValueError(
                f"samples must hold n_w={self.n_w} points for every candidate; got {samples.shape[-2]} points (shape "
                f"{tuple(samples.shape)}). Does the model have an input transform that makes {self.n_w} of each?"
            )
        prepared = self._prepare_samples(samples)
        try:
            return value(prepared, self.objective)
        except ValueError as error:
            raise ValueError(
                f"samples of the posterior are no rewards of {self.objective} (samples shape {tuple(samples.shape)}): "
                f"{error}"
            ) from error
