"""A decoder over the characters of Countdown, small enough to be trained on a processor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ordergrad.train import countdown

VOCABULARY = "0123456789+-*()=:"
END = len(VOCABULARY)
PROMPT = len("1577=09:")
LONGEST = countdown.longest_answer(countdown.Level()) + 1


def prompt_of(problem: countdown.Problem) -> list[int]:
    text = f"{''.join(map(str, problem.numbers))}={problem.target:02d}:"
    return [VOCABULARY.index(character) for character in text]


def answers(tokens: Tensor) -> list[str]:
    """Return the texts of completions, up to their end."""
    texts: list[str] = []
    for row in tokens[:, PROMPT:].tolist():
        ids = row[: row.index(END)] if END in row else row
        texts.append("".join(VOCABULARY[i] for i in ids))
    return texts


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a normalisation and beside a skip connection."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, cache: Tensor | None = None, at: int = 0) -> Tensor:
        """Return the next layer's input; with a cache, keys and values before position `at` are taken from it."""
        rows, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, at : at + length], cache[1, :, :, at : at + length] = k, v
            k, v = cache[:, :, :, : at + length]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Decoder(nn.Module):
    """A decoder over the characters of Countdown; 149,000 parameters with 3 layers of width 64."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(END + 1, width), nn.Embedding(PROMPT + LONGEST, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.last = nn.RMSNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.05)
        nn.init.normal_(self.places.weight, std=0.05)

    def forward(self, ids: Tensor, caches: Sequence[Tensor] | None = None, at: int = 0) -> Tensor:
        """Return the logits of every next token."""
        x = self.tokens(ids) + self.places.weight[at : at + ids.shape[1]]
        for block, layer in zip(self.blocks, caches or [None] * len(self.blocks), strict=True):
            x = block(x, layer, at)
        return F.linear(self.last(x), self.tokens.weight)

    @torch.no_grad()
    def sample(self, prompts: Tensor, copies: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
        """Return prompts with completions, `copies` of each in a row; their lengths; and the entropy per token."""
        width, heads = self.tokens.embedding_dim, self.blocks[0].heads
        shape = (2, len(prompts), heads, PROMPT + LONGEST, width // heads)
        caches = [torch.empty(shape) for _ in self.blocks]
        logits = self(prompts, caches)[:, -1].repeat_interleave(copies, 0)
        caches = [layer.repeat_interleave(copies, 1) for layer in caches]
        tokens = torch.full((len(logits), PROMPT + LONGEST), END)
        tokens[:, :PROMPT] = prompts.repeat_interleave(copies, 0)
        alive, lengths, entropy = torch.ones(len(logits), dtype=torch.bool), torch.zeros(len(logits)), 0.0
        for at in range(PROMPT, PROMPT + LONGEST):
            p = logits.softmax(-1)
            entropy += float((torch.special.entr(p).sum(-1) * alive).sum())
            lengths += alive
            tokens[:, at] = torch.where(alive, torch.multinomial(p, 1, generator=generator)[:, 0], END)
            alive &= tokens[:, at] != END
            if at + 1 == PROMPT + LONGEST or not alive.any():
                break
            logits = self(tokens[:, at : at + 1], caches, at)[:, -1]
        return tokens, lengths, entropy / float(lengths.sum())
