"""A recurrent policy over expressions in prefix order, as in deep symbolic regression.

An LSTM sees the parent and the left sibling of the place that is to be filled and gives the logits of the next token.
The logits get a prior added to them: hard constraints (lengths, no trigonometric function inside another, no log of exp
or exp of log) and two soft ones (equal shares for each arity; lengths near ten tokens). The weights of the LSTM start
at zero, so the first batch is drawn from the prior.

Expressions that begin alike are in the same state there. A batch is therefore walked through as a tree of prefixes, one
LSTM step for each distinct prefix. The network is so small that the passes forth and back are written out in NumPy:
they take a third of the time of PyTorch's LSTM cell, which the tests compare them with.

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
from symbolic.expressions import ARITY, PAD, TOKENS, tokens_for

NONE = 0  # no parent or sibling; otherwise the token's index plus one
KINDS = len(TOKENS) + 1
TRIG = np.isin(TOKENS, ("sin", "cos"))
INVERSE = (("exp", "log"), ("log", "exp"))


@dataclass(frozen=True)
class Rules:
    """The prior over expressions.

    Attributes:
        shortest: Fewest tokens.
        longest: Most tokens.
        typical: Middle of the soft prior on lengths. Before it a token that would end the expression, after it every
            operator, is less likely by exp(-(t - typical)^2 / (2 width)), t the position counted from 0.
        width: See `typical`.
    """

    shortest: int = 4
    longest: int = 64
    typical: float = 10
    width: float = 5


class Policy:
    """The weights: an LSTM layer with one-hot inputs, and a linear map from its output to the logits.

    The gates are in the order input, forget, output, cell.
    """

    def __init__(self, variables: int, rng: np.random.Generator, hidden: int = 32) -> None:
        self.size, self.hidden = tokens_for(variables), hidden
        bound = np.sqrt(6 / (hidden + self.size))
        self.weights = {
            "inputs": np.zeros((2 * KINDS, 4 * hidden), np.float32),  # parents, then siblings
            "recurrent": np.zeros((hidden, 4 * hidden), np.float32),
            "bias": np.zeros(4 * hidden, np.float32),
            "head": rng.uniform(-bound, bound, (hidden, self.size)).astype(np.float32),
            "head_bias": np.zeros(self.size, np.float32),
        }
        self.weights["bias"][hidden : 2 * hidden] = 1  # to begin with, remember


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
class Level:
    """One position of a batch: its prefixes, and what the LSTM computed for them.

    Attributes:
        origin: Of each prefix, which prefix of the position before it continues, ascending.
        inputs: Parent and sibling, as rows of the input weights.
        gates: Activations of the four gates, shape (prefixes, 4 hidden).
        before: State before the step: output and cell.
        cell: Cell after it.
        squashed: tanh of that.
    """

    origin: np.ndarray
    inputs: tuple[np.ndarray, np.ndarray]
    gates: np.ndarray
    before: tuple[np.ndarray, np.ndarray]
    cell: np.ndarray
    squashed: np.ndarray

    @property
    def output(self) -> np.ndarray:
        hidden = self.cell.shape[1]
        return self.gates[:, 2 * hidden : 3 * hidden] * self.squashed


@dataclass
class Batch:
    """Expressions, and the policy's steps through the tree of their prefixes.

    Attributes:
        tokens: Shape (expressions, longest of the batch), padded.
        distinct: Which of the distinct expressions each one is, shape (expressions,).
        levels: The prefixes of each position; over all positions, they are numbered one after the other.
        logp: Log-probabilities of all tokens after every prefix, shape (prefixes, tokens of the problem).
        who: For every token of every expression, whose it is; shape (all tokens,).
        prefix: After which prefix it stands.
        chosen: Which it is.
    """

    tokens: np.ndarray
    distinct: np.ndarray
    levels: list[Level]
    logp: np.ndarray
    who: np.ndarray
    prefix: np.ndarray
    chosen: np.ndarray

    def log_probabilities(self) -> np.ndarray:
        """Of each expression, shape (expressions,)."""
        return np.bincount(self.who, self.logp[self.prefix, self.chosen], len(self.tokens))

    def entropies(self) -> np.ndarray:
        """Of the policy after each prefix, shape (prefixes,)."""
        p = np.exp(self.logp)
        return -np.sum(p * np.where(p > 0, self.logp, 0), axis=1)


Choose = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Tokens for (position, which expressions, prefix of each among those of this position, log-probabilities there)."""


def walk(policy: Policy, rules: Rules, number: int, choose: Choose) -> Batch:
    """Let expressions grow side by side, by one token at each position."""
    size, hidden, table = policy.size, policy.hidden, prior_tables(policy.size)
    places = Places.root(rules)
    origin, state = np.zeros(1, int), (np.zeros((1, hidden), np.float32), np.zeros((1, hidden), np.float32))
    who, prefix = np.arange(number), np.zeros(number, int)
    tokens, distinct, ended = np.full((number, rules.longest), PAD, np.int8), np.zeros(number, int), 0
    levels: list[Level] = []
    logps: list[np.ndarray] = []
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    first = 0
    for position in range(rules.longest):
        level = lstm_step(policy, origin, places, state)
        output = level.output
        logits = output @ policy.weights["head"] + policy.weights["head_bias"] + prior(table, places, position, rules)
        logp = log_softmax(logits)
        chosen = choose(position, who, prefix, logp)
        tokens[who, position] = chosen
        levels.append(level)
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
        who, prefix, origin = who[goes_on], number_of[goes_on], origin[is_open]
        if not len(who):
            break
        places = Places(stack[is_open], depth[is_open])
        state = output.take(origin, 0), level.cell.take(origin, 0)
    everyone = (np.concatenate(column) for column in zip(*steps, strict=True))
    return Batch(tokens[:, : len(levels)], distinct, levels, np.concatenate(logps), *everyone)


def sample(policy: Policy, rules: Rules, number: int, rng: np.random.Generator) -> Batch:
    """Draw expressions from the policy."""

    def choose(position: int, who: np.ndarray, prefix: np.ndarray, logp: np.ndarray) -> np.ndarray:
        reached = np.cumsum(np.exp(logp), axis=1)[prefix]
        return (reached <= rng.random(len(who), np.float32)[:, None] * reached[:, -1:]).sum(axis=1)

    return walk(policy, rules, number, choose)


def follow(policy: Policy, rules: Rules, tokens: np.ndarray) -> Batch:
    """Walk along given expressions, shape (expressions, length), padded."""
    return walk(policy, rules, len(tokens), lambda position, who, prefix, logp: tokens[who, position])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def lstm_step(policy: Policy, origin: np.ndarray, places: Places, state: tuple[np.ndarray, np.ndarray]) -> Level:
    hidden, weights = policy.hidden, policy.weights
    inputs = places.parent, KINDS + places.sibling
    gates = state[0] @ weights["recurrent"] + weights["bias"]
    for rows in inputs:
        gates += weights["inputs"].take(rows, 0)
    sigmoid = gates[:, : 3 * hidden]
    sigmoid *= 0.5
    np.tanh(gates, out=gates)
    sigmoid += 1
    sigmoid *= 0.5
    cell = gates[:, hidden : 2 * hidden] * state[1]
    cell += gates[:, :hidden] * gates[:, 3 * hidden :]
    return Level(origin, inputs, gates, state, cell, np.tanh(cell))


def gradient(
    policy: Policy, batch: Batch, on_logp: np.ndarray, on_entropy: np.ndarray, discount: float
) -> dict[str, np.ndarray]:
    """Gradient of the weighted sum of the expressions' log-probabilities and entropies.

    Args:
        policy: The policy that the batch was walked with.
        batch: The batch.
        on_logp: Weight of each expression's log-probability, shape (expressions,).
        on_entropy: Weight of each expression's entropy, the sum of those of its tokens' distributions.
        discount: What the entropy of a token counts less than that of the one before it, as a factor.
    """
    weights, hidden, size = policy.weights, policy.hidden, policy.size
    counts = [len(level.origin) for level in batch.levels]
    fade = np.repeat(discount ** np.arange(len(counts)), counts)
    edges = np.bincount(batch.prefix * size + batch.chosen, on_logp[batch.who], batch.logp.size)
    edges = edges.reshape(batch.logp.shape)
    share = fade * np.bincount(batch.prefix, on_entropy[batch.who], len(batch.logp))
    p, entropy = np.exp(batch.logp), batch.entropies()
    surprise = np.where(p > 0, batch.logp, 0) + entropy[:, None]
    on_logits = edges - p * (edges.sum(axis=1, keepdims=True) + share[:, None] * surprise)
    on_logits = on_logits.astype(np.float32)

    on_output = on_logits @ weights["head"].T
    on_gates = np.empty((len(batch.logp), 4 * hidden), np.float32)
    later_output = later_cell = np.float32(0)
    first = np.cumsum([0, *counts])
    for position in reversed(range(len(counts))):
        level, rows = batch.levels[position], slice(first[position], first[position + 1])
        i, f, o, g = (slice(k * hidden, (k + 1) * hidden) for k in range(4))
        gates, d = level.gates, on_gates[rows]
        slope = 1 - gates
        slope[:, : 3 * hidden] *= gates[:, : 3 * hidden]
        slope[:, g] *= 1 + gates[:, g]
        d_output = on_output[rows] + later_output
        d_cell = d_output * gates[:, o] * (1 - level.squashed * level.squashed) + later_cell
        np.multiply(d_cell, gates[:, g], out=d[:, i])
        np.multiply(d_cell, level.before[1], out=d[:, f])
        np.multiply(d_output, level.squashed, out=d[:, o])
        np.multiply(d_cell, gates[:, i], out=d[:, g])
        d *= slope
        if position > 0:
            later_output = to_origins(d @ weights["recurrent"].T, level.origin, counts[position - 1])
            later_cell = to_origins(d_cell * gates[:, f], level.origin, counts[position - 1])
    earlier = np.concatenate([level.before[0] for level in batch.levels])
    outputs = np.concatenate([level.output for level in batch.levels])
    one_hot = np.zeros((len(on_gates), 2 * KINDS), np.float32)
    for rows in zip(*(level.inputs for level in batch.levels), strict=True):
        one_hot[np.arange(len(on_gates)), np.concatenate(rows)] = 1
    return {
        "inputs": one_hot.T @ on_gates,
        "recurrent": earlier.T @ on_gates,
        "bias": on_gates.sum(axis=0),
        "head": outputs.T @ on_logits,
        "head_bias": on_logits.sum(axis=0),
    }


def to_origins(values: np.ndarray, origin: np.ndarray, number: int) -> np.ndarray:
    """Sum rows that have the same origin; origins ascend. Shape (number, columns)."""
    new = np.ones(len(origin), bool)
    np.not_equal(origin[1:], origin[:-1], out=new[1:])
    starts = new.nonzero()[0]
    total = np.zeros((number, values.shape[1]), values.dtype)
    total[origin[starts]] = np.add.reduceat(values, starts, axis=0)
    return total
