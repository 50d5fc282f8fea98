"""A recurrent policy over expressions in prefix order, as in deep symbolic regression.

An LSTM sees the parent and the left sibling of the place that is to be filled and gives the logits of the next token.
The logits get a prior added to them: hard constraints (lengths, no trigonometric function inside another, no log of exp
or exp of log) and two soft ones (equal shares for each arity; lengths near ten tokens). The weights of the LSTM start
at zero, so the first batch is drawn from the prior.

Expressions that begin alike are in the same state there. A batch is therefore walked through as a tree of prefixes, one
LSTM step for each distinct prefix. The steps of the sampling are kept for the gradient: there is no second pass.

References:
    Petersen et al. (2021). Deep symbolic regression. ICLR, arXiv 1912.04871.
    Landajuela et al. (2021). Improving exploration in policy gradient search: application to symbolic optimization.
        arXiv 2107.09158. (the soft priors, the discounted entropy)
    Settings: dso/config/config_regression.json in github.com/dso-org/deep-symbolic-optimization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from symbolic.expressions import ARITY, PAD, TOKENS, tokens_for
from torch import nn

NONE = 0  # no parent or sibling; otherwise the token's index plus one
KINDS = len(TOKENS) + 1
TRIG = np.isin(TOKENS, ("sin", "cos"))
INVERSE = (("exp", "log"), ("log", "exp"))
State = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Rules:
    """The prior over expressions.

    Before the length `typical` a token that would end the expression, after it every operator, is less likely by
    exp(-(t - typical)^2 / (2 width)), t the position counted from 0.
    """

    shortest: int = 4  # tokens
    longest: int = 64
    typical: float = 10
    width: float = 5


class Policy(nn.Module):
    """One LSTM layer with one-hot inputs, parents then siblings, and a linear map from its output to the logits."""

    def __init__(self, variables: int, hidden: int = 32) -> None:
        super().__init__()
        self.size, self.hidden = tokens_for(variables), hidden
        self.cell = nn.LSTMCell(2 * KINDS, hidden)
        self.head = nn.Linear(hidden, self.size)
        with torch.no_grad():
            for weights in self.cell.parameters():
                weights.zero_()
            self.cell.bias_ih[hidden : 2 * hidden] = 1  # to begin with, remember
            nn.init.xavier_uniform_(self.head.weight)
            self.head.bias.zero_()

    def step(self, places: Places, state: State) -> tuple[torch.Tensor, State]:
        """Logits of the next token of every prefix, shape (prefixes, size), and the state after the step."""
        inputs, rows = np.zeros((len(places.depth), 2 * KINDS), np.float32), np.arange(len(places.depth))
        inputs[rows, places.parent] = 1
        inputs[rows, KINDS + places.sibling] = 1
        state = self.cell(torch.from_numpy(inputs), state)
        return self.head(state[0]), state


# Open places --------------------------------------------------------------------------------------------------------

SIBLING, LEFT, INSIDE = 4, 8, 9  # bits from which on they are kept; the parent is in the first four


class Places:
    """The open places of prefixes, a stack for each; the uppermost is filled next.

    Attributes:
        stack: Parent, sibling, whether it is the left of two places, and whether it is inside a trigonometric function,
            packed into one number for each place; shape (prefixes, most open places).
        depth: How many are open, shape (prefixes,).
        parent, sibling, left, inside: Of the place that is next, shape (prefixes,).
    """

    def __init__(self, stack: np.ndarray, depth: np.ndarray) -> None:
        self.stack, self.depth = stack, depth
        top = stack[np.arange(len(depth)), depth - 1]
        self.parent, self.sibling = top & 15, (top >> SIBLING) & 15
        self.left, self.inside = (top >> LEFT) & 1, top >> INSIDE

    @classmethod
    def root(cls, rules: Rules) -> Places:
        return cls(np.zeros((1, rules.longest // 2 + 3), np.int16), np.ones(1, np.int64))

    def fill(self, origin: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stacks and depths after each prefix in `origin` got a token."""
        stack, depth, rows = self.stack.take(origin, 0), self.depth[origin] - 1, np.arange(len(origin))
        right_is_next = self.left[origin].nonzero()[0]
        stack[right_is_next, depth[right_is_next] - 1] |= (token[right_is_next] + 1 << SIBLING).astype(np.int16)
        place = (token + 1 | (self.inside[origin] | TRIG[token]) << INSIDE).astype(np.int16)
        stack[rows, depth] = place
        stack[rows, depth + 1] = place | 1 << LEFT
        return stack, depth + ARITY[token]


def prior_tables(size: int) -> np.ndarray:
    """The part of the prior that depends on the parent and on being inside a trigonometric function."""
    arity = ARITY[:size]
    table = np.tile(-np.log(np.bincount(arity)[arity]), (KINDS, 2, 1)).astype(np.float32)
    table[:, 1, TRIG[:size]] = -np.inf
    for parent, child in INVERSE:
        table[TOKENS.index(parent) + 1, :, TOKENS.index(child)] = -np.inf
    return table


def prior(table: np.ndarray, places: Places, position: int, rules: Rules) -> np.ndarray:
    """What is added to the logits at a position, counted from 0; minus infinity forbids. Shape (prefixes, size)."""
    arity = ARITY[: table.shape[-1]]
    added = table[places.parent, places.inside]
    penalty = np.float32((position - rules.typical) ** 2 / (2 * rules.width)) if position else np.float32(0)
    if position < rules.typical:
        ending = np.where(arity == 0, np.float32(np.inf) if position + 1 < rules.shortest else penalty, np.float32(0))
        added[places.depth == 1] -= ending
    else:
        added[:, arity > 0] -= penalty
    left_over = rules.longest - position  # places that can still be filled
    if places.depth.max() + 2 > left_over:
        added[places.depth[:, None] + arity > left_over] = -np.inf
    return added


# Batches ------------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Expressions, and the policy's steps through the tree of their prefixes.

    Attributes:
        tokens: Shape (expressions, longest of the batch), padded.
        distinct: Which of the distinct expressions each one is, shape (expressions,).
        position: Of each prefix, shape (prefixes,).
        logp: Log-probabilities of all tokens after every prefix, shape (prefixes, size); differentiable.
        who: For every token of every expression, whose it is; shape (all tokens,).
        prefix: After which prefix it stands.
        chosen: Which it is.
    """

    tokens: np.ndarray
    distinct: np.ndarray
    position: np.ndarray
    logp: torch.Tensor
    who: np.ndarray
    prefix: np.ndarray
    chosen: np.ndarray

    def log_probabilities(self) -> np.ndarray:
        """Of each expression, shape (expressions,)."""
        return np.bincount(self.who, self.logp.detach().numpy()[self.prefix, self.chosen], len(self.tokens))

    def entropies(self) -> torch.Tensor:
        """Of the policy after each prefix, shape (prefixes,); differentiable."""
        finite = self.logp.clamp(min=-1e4)  # exp gives exactly 0 for what is forbidden
        return -(finite.exp() * finite).sum(1)

    def weighted(self, on_logp: np.ndarray, on_entropy: np.ndarray, discount: float) -> torch.Tensor:
        """The sum of the expressions' log-probabilities and entropies, each times a weight; differentiable.

        Args:
            on_logp: Weight of each expression's log-probability, shape (expressions,).
            on_entropy: Weight of each expression's entropy, the sum of those of its tokens' distributions.
            discount: By what factor the entropy of a token counts less than that of the one before it.
        """
        edges = np.bincount(self.prefix * self.logp.shape[1] + self.chosen, on_logp[self.who], self.logp.numel())
        nodes = np.bincount(self.prefix, on_entropy[self.who], len(self.logp)) * discount**self.position
        edges, nodes = (torch.from_numpy(weights).float() for weights in (edges, nodes))
        return edges @ self.logp.clamp(min=-1e4).flatten() + nodes @ self.entropies()


Choose = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Tokens for (position, which expressions, prefix of each among those of this position, log-probabilities there)."""


def walk(policy: Policy, rules: Rules, number: int, choose: Choose) -> Batch:
    """Let expressions grow side by side, by one token at each position."""
    size, hidden, table = policy.size, policy.hidden, prior_tables(policy.size)
    places = Places.root(rules)
    state = torch.zeros(1, hidden), torch.zeros(1, hidden)
    who, prefix = np.arange(number), np.zeros(number, int)
    tokens, distinct, ended = np.full((number, rules.longest), PAD, np.int8), np.zeros(number, int), 0
    logps: list[torch.Tensor] = []
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    first = 0
    for position in range(rules.longest):
        logits, state = policy.step(places, state)
        logp = torch.log_softmax(logits + torch.from_numpy(prior(table, places, position, rules)), 1)
        chosen = choose(position, who, prefix, logp.detach().numpy())
        tokens[who, position] = chosen
        logps.append(logp)
        steps.append((who, first + prefix, chosen))
        first += len(logp)

        # Distinct continuations: those with an open place are the next prefixes, the others have ended.
        edge = prefix * size + chosen
        taken = np.zeros(len(logp) * size, bool)
        taken[edge] = True
        edges = taken.nonzero()[0]
        origin, token = np.divmod(edges, size)
        stack, depth = places.fill(origin, token)
        is_open = depth > 0
        number_of = np.empty(len(taken), int)
        number_of[edges] = np.where(is_open, np.cumsum(is_open) - 1, ended - np.cumsum(~is_open))
        ended -= len(edges) - int(is_open.sum())
        number_of = number_of[edge]
        goes_on = number_of >= 0
        distinct[who[~goes_on]] = -1 - number_of[~goes_on]
        who, prefix = who[goes_on], number_of[goes_on]
        if not len(who):
            break
        places = Places(stack[is_open], depth[is_open])
        kept = torch.from_numpy(origin[is_open])
        state = state[0][kept], state[1][kept]
    position = np.repeat(np.arange(len(logps)), [len(logp) for logp in logps])
    everyone = (np.concatenate(column) for column in zip(*steps, strict=True))
    return Batch(tokens[:, : len(logps)], distinct, position, torch.cat(logps), *everyone)


def sample(policy: Policy, rules: Rules, number: int, rng: np.random.Generator) -> Batch:
    """Draw expressions from the policy."""

    def choose(position: int, who: np.ndarray, prefix: np.ndarray, logp: np.ndarray) -> np.ndarray:
        reached = np.cumsum(np.exp(logp), axis=1)[prefix]
        return (reached <= rng.random(len(who), np.float32)[:, None] * reached[:, -1:]).sum(axis=1)

    return walk(policy, rules, number, choose)


def follow(policy: Policy, rules: Rules, tokens: np.ndarray) -> Batch:
    """Walk along given expressions, shape (expressions, length), padded."""
    return walk(policy, rules, len(tokens), lambda position, who, prefix, logp: tokens[who, position])
