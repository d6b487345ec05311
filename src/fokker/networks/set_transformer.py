"""A network from values at any points to values at any others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.networks.blocks import Modulation, PointFeatures, check_set, zeroed

LENGTHS = (0.05, 1.0)  # of the first and the last head, at the start


class SetTransformer(nn.Module):
    """Values at context points -> values at query points (Lee et al. 2019; adaptive norms of Peebles & Xie 2023).

    The context attends to itself in `depth` layers, then each query attends to the context in `query_depth` layers;
    queries never see each other, so the answer at a point does not depend on what else is asked. Order and padding of
    the context change nothing; one learned token without a place is always there, so an empty context has an answer.
    Points are of about the unit cube: each head also weighs by distance, exp(-|x - x'|^2 / (2 l^2)), l learned.
    The noise level gives each layer norm its gain and shift.

    Different kinds of context (noisy values of a state, observations) are told apart by the caller: concatenate an
    indicator to the values. c_query: extra features of each query, for example a mean and deviation known beforehand.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        dimension: int,
        c_query: int = 0,
        width: int = 64,
        heads: int = 4,
        depth: int = 2,
        query_depth: int = 2,
        scales: int = 5,
        level_width: int = 64,
    ):
        super().__init__()
        if width % heads:
            raise InputError(f"width: got {width}, a multiple of heads = {heads} is accepted")
        self._settings = {
            "kind": "set_transformer", "c_in": c_in, "c_out": c_out, "dimension": dimension, "c_query": c_query,
            "width": width, "heads": heads, "depth": depth, "query_depth": query_depth, "scales": scales,
            "level_width": level_width,
        }  # fmt: skip
        self.sizes = (c_in, dimension, c_query)
        self.features = PointFeatures(dimension, scales)
        self.level = Modulation([width] * 2 * (depth + query_depth), level_width)
        self.enter = nn.Linear(c_in + self.features.size, width)
        self.ask = nn.Linear(c_query + self.features.size, width)
        self.absent = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.context = nn.ModuleList(_Layer(width, heads) for _ in range(depth))
        self.queries = nn.ModuleList(_Layer(width, heads) for _ in range(query_depth))
        self.leave = zeroed(nn.Linear(width, c_out))

    def forward(
        self,
        values: Tensor,
        points: Tensor,
        level: Tensor | None,
        query: Tensor,
        mask: Tensor | None = None,
        query_features: Tensor | None = None,
    ) -> Tensor:
        """See `blocks` for the shapes; mask (B, P), True for what is there. InputError for other shapes."""
        check_set(values, points, query, query_features, self.sizes)
        rows, count = values.shape[:2]
        points, query = points.expand(rows, -1, -1), query.expand(rows, -1, -1)
        allowed = None
        if mask is not None:
            if mask.shape != (rows, count) or mask.dtype != torch.bool:
                raise InputError(
                    f"mask: got {mask.dtype} of shape {tuple(mask.shape)}, bool ({rows}, {count}) is accepted"
                )
            values, points = values.masked_fill(~mask[..., None], 0), points.masked_fill(~mask[..., None], 0)
            allowed = nn.functional.pad(mask, (0, 1), value=True)[:, None, None]
        films = iter(self.level(level, rows))
        tokens = self.enter(torch.cat([values, self.features(points)], -1))
        tokens = torch.cat([tokens, self.absent.expand(rows, 1, -1)], 1)
        for layer in self.context:
            tokens = layer(tokens, points, None, points, (next(films), next(films)), allowed)
        asked = self.features(query)
        h = self.ask(asked if query_features is None else torch.cat([asked, query_features.expand(rows, -1, -1)], -1))
        for layer in self.queries:
            h = layer(h, query, tokens, points, (next(films), next(films)), allowed)
        return self.leave(_normed(h))

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)


class _Layer(nn.Module):
    """Attention to the context by content and distance, then two layers for each token, both residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.log_length = nn.Parameter(torch.linspace(math.log(LENGTHS[0]), math.log(LENGTHS[1]), heads))

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        context: Tensor | None,
        places: Tensor,
        films: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
        allowed: Tensor | None,
    ) -> Tensor:
        """h (B, Q, width) at x (B, Q, d); context (B, P + 1, width), the last without a place; None for h itself."""
        inner = _normed(h, *films[0])
        source = inner if context is None else _normed(context)
        h = h + self._attention(inner, x, source, places, allowed)
        return h + self.narrow(nn.functional.silu(self.wide(_normed(h, *films[1]))))

    def _attention(self, h: Tensor, x: Tensor, source: Tensor, places: Tensor, allowed: Tensor | None) -> Tensor:
        # -|x - x'|^2 / 2 is the product of (x, 1, -|x|^2/2) and (x', -|x'|^2/2, 1), in units of the head's length:
        # with these appended to queries and keys, distance costs no matrix of its own. Tokens without place have zeros.
        q, (k, v) = self.q(h), self.kv(source).chunk(2, -1)
        q, k, v = (value.unflatten(-1, (self.heads, -1)).transpose(1, 2) for value in (q, k, v))
        size = q.shape[-1]
        q = torch.cat([q / math.sqrt(size), self._placed(x, q.shape[2], False)], -1)
        k = torch.cat([k, self._placed(places, k.shape[2], True)], -1)
        more = k.shape[-1] - size
        out = nn.functional.scaled_dot_product_attention(
            q, k, nn.functional.pad(v, (0, more)), attn_mask=allowed, scale=1.0
        )
        return self.mix(out[..., :size].transpose(1, 2).flatten(2))

    def _placed(self, x: Tensor, count: int, key: bool) -> Tensor:
        """(B, heads, count, d + 2), rows beyond those of x zero."""
        x = (x[:, None] - 0.5) * (-self.log_length).exp()[:, None, None]
        half, one = -x.square().sum(-1, keepdim=True) / 2, torch.ones_like(x[..., :1])
        return nn.functional.pad(
            torch.cat([x, half, one] if key else [x, one, half], -1), (0, 0, 0, count - x.shape[2])
        )


def _normed(h: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """h (B, Q, width) with mean 0 and variance 1 over its channels, times gain plus shift."""
    h = nn.functional.layer_norm(h, h.shape[-1:])
    return h if gain is None or shift is None else torch.addcmul(shift[:, None], gain[:, None], h)
