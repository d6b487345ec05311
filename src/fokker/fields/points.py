"""Functions seen at scattered points, as a score model that can be asked anywhere.

The same denoiser as in `score`, on any points, with a network from sets to sets. At other points q the Gaussian part of
f is told by what is known at the points X, with K = C(q, X) C(X, X)^-1:

    D(q) = mean(q) + K (D_y - mean)(X) + std(q) F(q),    std(q)^2 = d^2 (C(q, q) - K C(X, q)) + K Var[f(X) | z, y] K^T,

and the channels there are those at X times K, but for the standard deviation. An untrained network is the Gaussian
conditional at every q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fokker.fields.score import FunctionScore
from fokker.fields.update import Update
from fokker.networks.denoiser import NetworkDenoiser
from fokker.noise import Correlated
from fokker.processes import Time, VarianceExploding, as_time
from fokker.random_fields import Field
from fokker.states import Cond, Moments, as_cond, column

if TYPE_CHECKING:
    from fokker.fields.prior import FunctionPrior

CUT = 1e-12  # of the largest eigenvalue of C(X, X), below which a direction is not inverted


@dataclass(frozen=True)
class Between:
    """K (Q, P), and C(q, q) - K C(X, q) (Q,), from points X (P, dim) to q (Q, dim) by a field."""

    weights: Tensor
    lost: Tensor

    @classmethod
    def of(cls, field: Field, points: Tensor, query: Tensor) -> Between:
        """By the eigenvectors of C(X, X): points that coincide are one."""
        here, there = field.basis(points), field.basis(query)
        values, vectors = torch.linalg.eigh(here @ here.T)
        inverse = torch.where(values > CUT * values[-1], 1 / values, 0.0)
        cross = there @ here.T
        weights = (cross @ vectors * inverse) @ vectors.T
        return cls(weights, (there.square().sum(-1) - (weights * cross).sum(-1)).clamp(min=0))


class PointScore(FunctionScore):
    """States (B, P) at points (P, dim); network: `network(values, points, level, query, mask, query_features)`."""

    def __init__(
        self,
        network: nn.Module,
        field: Field,
        points: Tensor,
        mean: Tensor,
        data_std: float,
        rho_range: tuple[float, float],
        conditional: bool,
    ):
        process = VarianceExploding(rho_range[1], noise=Correlated(field, points))
        super().__init__(process, network, mean, field.variance(points), data_std, rho_range, conditional)
        self.field, self.points = field, points.to(self.device)

    def _network(self, channels: Tensor, level: Tensor) -> Tensor:
        values, points = channels.mT, self.points.to(channels)[None]
        return self.network(values, points, level, points, None, values)[..., 0]

    def decode(self, x_t: Tensor, t: Time, cond: Tensor | Cond | None, query: Tensor, mean: Tensor) -> Tensor:
        """E[f_0(query) | x_t, y] (B, Q) for x_t (B, P) at the points; query (Q, dim), mean (Q,) of the functions there.

        InputError for points of another dimension or outside the domain of the field.
        """
        t = as_time(t)
        rho = self.process.noise_to_signal(t)
        return self.decoded(x_t / column(self.process.scale(t), x_t), rho, as_cond(cond), query, mean)

    def decoded(self, z: Tensor, rho: Tensor, cond: Cond, query: Tensor, mean: Tensor) -> Tensor:
        """The same at a level, for z (B, P)."""
        query, rho, d, update = query.to(self.device), rho.to(self.device), self.data_std, Update.from_cond(cond)
        between = Between.of(self.field, self.points, query)
        weights = between.weights.to(z)
        guess, std, channels = self._gaussian(z, rho, update)
        c2 = self._left(rho)
        covariance = self._covariance(update if self.conditional else None, c2)
        variance = d**2 * between.lost + torch.einsum(
            "qi,bij,qj->bq", between.weights, covariance, between.weights
        ).clamp(min=0)
        std_there = variance.sqrt().to(z).expand(len(z), -1)
        there = channels @ weights.T  # (B, c, Q)
        if self.conditional:
            there = torch.cat([there[:, :3], (std_there / column(c2.sqrt(), std_there))[:, None]], 1)
        level = (rho.log() / 4).reshape(-1).to(z)
        points, asked = self.points.to(z)[None], query.to(z)[None]
        left = self.network(channels.mT, points, level, asked, None, there.mT)[..., 0]
        value = guess @ weights.T + std_there * left
        if update is not None and not self.conditional:
            d_here = guess + std * self._network(channels, level)
            value = value + self._shift(update, d_here, c2) @ weights.T
        return mean.to(z) + value

    def _covariance(self, update: Update | None, c2: Tensor) -> Tensor:
        """Var[f(X) | z, y] of the Gaussian, (B or 1, P, P)."""
        basis = self.field.basis(self.points)
        full = c2.double().reshape(-1, 1, 1) * (basis @ basis.T)
        return full if update is None else full - update.taken(c2)


class AnyPoints(NetworkDenoiser):
    """The same model on points that each call names: cond["points"] (1, T, dim), the first cond["context"] its context.

    For training: states (B, T) hold values at the context and at further points, where the network is asked as well.
    """

    def __init__(self, prior: FunctionPrior):
        self.prior, self.network, self.data_std, self.rho_range = prior, prior.network, prior.data_std, prior.rho_range
        self.process = VarianceExploding(prior.rho_range[1], noise=Correlated(prior.field))
        self.moments = Moments(torch.zeros(()), torch.tensor(prior.data_std))
        parameter = next(prior.network.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """E[f_0 | f_t at the context, y] at all points, z (B, T)."""
        model, points = self._at(cond)
        return model.decoded(z[:, : len(model.points)], rho, cond, points, self.prior.mean_at(points))

    def entry_weights(self, rho: Tensor, cond: Cond) -> Tensor:
        """c^2 / (c^2 + d^2 (C(q, q) - K C(X, q))): an error counts by what f given z leaves open there."""
        model, points = self._at(cond)
        c2 = model._left(rho).reshape(-1, 1)
        lost = Between.of(model.field, model.points, points.to(self.device)).lost
        return c2 / (c2 + self.data_std**2 * lost.to(c2.device))

    def _at(self, cond: Cond) -> tuple[PointScore, Tensor]:
        """The model on the context, and all points."""
        points, context = cond["points"][0], int(cond["context"][0])
        model = self.prior.at(points[:context])
        assert isinstance(model, PointScore)
        model.network = self.network  # what is judged may be the averaged one
        return model, points
