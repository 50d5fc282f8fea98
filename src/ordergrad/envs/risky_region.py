"""What the risky regions of continuous control have in common: a bonus and a noise of mean zero."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["RiskyPay"]


@dataclass(frozen=True)
class RiskyPay:
    r"""What a visit to a risky region pays: \(b + s \sqrt{(\nu - 2) / \nu} \; T_\nu\), with Student's T.

    Attributes:
        bonus: The mean b. A positive one makes the region attractive to whoever looks at the mean alone.
        noise: The standard deviation s.
        freedom: The degrees of freedom, above 2: the smaller, the heavier the tails. Infinity is a normal variable.

    Raises:
        ValueError: One of them is out of range.

    Example:
        >>> pay = RiskyPay(bonus=0.5, noise=10.0, freedom=3.0)
        >>> rng = np.random.default_rng(0)
        >>> draws = np.array([pay.draw(rng) for _ in range(2000)])
        >>> round(draws.mean()), round(np.abs(draws).max() / draws.std())  # normal: 3 or 4
        (1, 7)
    """

    bonus: float
    noise: float
    freedom: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.bonus):
            raise ValueError(f"bonus must be finite; got {self.bonus}")
        if not 0.0 <= self.noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0; got {self.noise}")
        if not self.freedom > 2.0:
            raise ValueError(f"freedom must be greater than 2, or the noise has no variance; got {self.freedom}")

    def draw(self, rng: np.random.Generator) -> float:
        """Draw the pay of one visit."""
        if math.isinf(self.freedom):
            return self.bonus + self.noise * float(rng.standard_normal())
        unit = math.sqrt((self.freedom - 2.0) / self.freedom)
        return self.bonus + self.noise * unit * float(rng.standard_t(self.freedom))
