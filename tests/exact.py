"""Exact models, and the exact law of a sampler's own chain on a Gaussian model.

On a Gaussian model every fixed-step sampler is affine in all its noise. `Probe` is a law of noise that gives row r of a
batch one chosen unit vector at one chosen step and zero at all others: a single run then returns the whole affine map,
hence mean and covariance of the chain without any Monte-Carlo error.

Statistical tests turn each average into a standard normal z and compare the largest |z| with `limit(count)`: the
false-alarm rate of a whole list of `count` numbers is RATE, by Bonferroni. Seeds are fixed.
"""

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.stats import norm

import fokker
from fokker.rng import Key
from fokker.score import Denoiser, GaussianScore, MixtureScore
from fokker.states import Moments

RATE = 1e-4

PROCESSES = {
    "ve_linear": fokker.VarianceExploding(),
    "ve_geometric": fokker.VarianceExploding(sigma_max=25.0, schedule="geometric"),
    "vp1": fokker.VariancePreserving(n=1),
    "vp1.5": fokker.VariancePreserving(n=1.5),
    "vp2": fokker.VariancePreserving(n=2),
    "vp3": fokker.VariancePreserving(n=3),
    "ddpm_linear": fokker.DDPM(),
    "ddpm_cosine": fokker.DDPM(schedule="cosine"),
    # On the circle m^2 + sigma^2 = 1, to rho = tan(1.53) = 24.5.
    "custom": fokker.CustomProcess(lambda t: torch.cos(1.53 * t), lambda t: torch.sin(1.53 * t)),
}
ALPHAS = (0.0, 0.5, 1.0, 2.0)


def growing(rho):
    """An alpha that varies with the level."""
    return 2 * rho / (1 + rho)


SAMPLERS = {  # name: (sampler, declared order on rho >= rho_min)
    **{f"transition1_{a:g}": (fokker.Transition(alpha=a), 1) for a in ALPHAS},
    **{f"transition2_{a:g}": (fokker.Transition(alpha=a, order=2), 2) for a in ALPHAS},
    **{f"gaussian1_{a:g}": (fokker.GaussianTransition(alpha=a, order=1), 1) for a in ALPHAS},
    **{f"gaussian2_{a:g}": (fokker.GaussianTransition(alpha=a), 2) for a in ALPHAS},
    "gaussian2_function": (fokker.GaussianTransition(alpha=growing), 2),
    "transition1_function": (fokker.Transition(alpha=growing), 1),
    "transition2_function": (fokker.Transition(alpha=growing, order=2), 2),
    **{f"euler_maruyama_{a:g}": (fokker.EulerMaruyama(alpha=a), 1) for a in ALPHAS},
    "euler_maruyama_function": (fokker.EulerMaruyama(alpha=growing), 1),
    "heun": (fokker.Heun(), 2),
    **{f"ancestral_{variance}": (fokker.Ancestral(variance), 1) for variance in ("posterior", "beta")},
    "ddim_0.6": (fokker.DDIM(eta=0.6), 1),
    **{f"heun_time_{a:g}": (fokker.HeunTime(alpha=a), 2) for a in (0.0, 1.0)},
    "heun_time_function": (fokker.HeunTime(alpha=growing), 2),
}
ADAPTIVE = {"rk45": fokker.RK45()}
LANGEVIN = {  # their step sizes leave a bias on any grid; see test_langevin.py for what they converge to
    "predictor_corrector": fokker.PredictorCorrector(fokker.Transition(alpha=0.5), steps=2, step_size=0.1),
    "annealed_langevin": fokker.AnnealedLangevin(step_size=0.3, steps=3),
}
ALL_SAMPLERS = {**{name: sampler for name, (sampler, _) in SAMPLERS.items()}, **ADAPTIVE, **LANGEVIN}

MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.8, 0.3], [0.3, 0.4]], dtype=torch.float64)
NOISE_FACTOR = torch.tensor([[0.9, 0.0], [0.5, 0.7]], dtype=torch.float64)

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[-1.5, 0.0], [1.0, 1.2], [1.2, -1.5]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.20, 0.05], [0.05, 0.30]], [[0.10, -0.05], [-0.05, 0.15]], [[0.25, 0.0], [0.0, 0.08]]], dtype=torch.float64
)


def gaussian(process, dtype=torch.float64):
    return GaussianScore(process, MEAN.to(dtype), COVARIANCE.to(dtype))


def mixture(process, dtype=torch.float64):
    return MixtureScore(process, WEIGHTS.to(dtype), MEANS.to(dtype), COVARIANCES.to(dtype))


def limit(count, rate=RATE):
    """|z| that the largest of `count` standard normals exceeds with a probability of at most `rate`."""
    return float(norm.isf(rate / 2 / count))


def levels(process, steps, rho_max, rho_min):
    """Times of `steps` intervals from rho_max to rho_min > 0, on the Karras grid: nested under doubling."""
    t_max, t_min = (float(process.time_of(rho)) for rho in (rho_max, rho_min))
    return fokker.Karras()(process, steps + 1, t_min, t_max)


# --- Laws of noise for tests


@dataclass(frozen=True, eq=False)
class Fixed:
    """N(0, F F^T) on vectors, F = NOISE_FACTOR unless given."""

    factor: torch.Tensor = NOISE_FACTOR
    white = False

    def sample(self, like, key, points=None):
        return key.normal(tuple(like.shape[1:])).to(like) @ self.factor.to(like).T

    def apply(self, x, points=None):
        return x @ (self.factor @ self.factor.T).to(x)

    def solve(self, x, points=None):
        return x @ torch.linalg.inv(self.factor @ self.factor.T).to(x)

    def log_det(self, like, points=None):
        return 2 * torch.linalg.slogdet(self.factor)[1]


@dataclass(frozen=True, eq=False)
class Probe(Fixed):
    """Row r > 0 gets the unit vector `entry[r]` where key.step and key.part are `step[r]` and `part[r]`, else zero.

    `asked` collects every (step, part) for which noise was drawn.
    """

    factor: torch.Tensor | None = None
    step: np.ndarray | None = None
    part: np.ndarray | None = None
    entry: np.ndarray | None = None
    asked: set = field(default_factory=set)

    @property
    def white(self):
        return self.factor is None

    def unit(self, like, key: Key):
        rows = key.rows.sample
        self.asked.add((key.step, key.part))
        hit = np.flatnonzero((self.step[rows] == key.step) & (self.part[rows] == key.part))
        out = torch.zeros_like(like)
        out[torch.from_numpy(hit), torch.from_numpy(self.entry[rows[hit]])] = 1.0
        return out

    def sample(self, like, key, points=None):
        unit = self.unit(like, key)
        return unit if self.white else unit @ self.factor.to(like).T


@dataclass(frozen=True)
class ProbeMoments(Moments):
    """The data part of the first draw, from a `Probe`."""

    probe: Probe

    def draw(self, like, key):
        return self.mean.to(like) + self.probe.unit(like, key) @ self.factor.to(like).T


def chain_law(model, sampler, times):
    """Exact mean and covariance of what `sampler` returns on a Gaussian model over `times`."""
    size = len(model.moments.mean)
    factor = None if model.process.noise.white else model.process.noise.factor

    def probed(slots):
        step, part = (np.repeat(np.array(v), size) for v in zip(*slots)) if slots else ([], [])
        entry = np.append(0, np.tile(np.arange(size), len(slots))).astype(int)
        probe = Probe(factor, np.append(-1, step), np.append("", part), entry)
        other = copy.copy(model)
        other.process = replace(model.process, noise=probe)
        other.moments = ProbeMoments(model.moments.mean, model.moments.factor, probe)
        return fokker.sample(other, (len(entry), size), sampler=sampler, grid=times).samples, probe.asked

    _, slots = probed([])  # a run without noise tells how often each step draws
    out, _ = probed(sorted(slots))
    linear = out[1:] - out[0]
    return out[0], linear.T @ linear


def exact_law(model, t):
    """Mean and covariance of x_t where x_0 has the model's own overall moments."""
    m, sigma = float(model.process.scale(t)), float(model.process.sigma(t))
    factor = model.moments.factor
    noise = model.process.noise.apply(torch.eye(len(factor), dtype=torch.float64))
    return m * model.moments.mean, m**2 * factor @ factor.T + sigma**2 * noise


def moment_z(samples, mean, covariance):
    """z of every mean and second moment of samples (N, d), whitened by the law N(mean, covariance) they claim.

    For Gaussian samples: sqrt(N) w, sqrt(N) w_i w_j and sqrt(N/2) (w_i^2 - 1) of the whitened averages.
    """
    w = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (samples.double() - mean).T, upper=False)
    count = w.shape[1]
    second = (w @ w.T / count - torch.eye(len(w), dtype=torch.float64)) * count**0.5
    second.diagonal().div_(2**0.5)
    rows, columns = torch.tril_indices(len(w), len(w))
    return torch.cat([w.mean(1) * count**0.5, second[rows, columns]])


# --- Expectations of a mixture in closed form

WAVES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [2.0, 0.5], [0.5, 2.0]], dtype=torch.float64)


def mixture_features(x):
    """Means, second moments, cosines and sines of x (N, 2) -> (N, 17)."""
    x = x.double()
    phase = x @ WAVES.T
    return torch.cat([x, x**2, x[:, :1] * x[:, 1:], phase.cos(), phase.sin()], 1)


def mixture_expectations():
    """The averages of `mixture_features` under the mixture, exactly."""
    second = COVARIANCES + MEANS[:, :, None] * MEANS[:, None]
    damp = torch.exp(-0.5 * torch.einsum("wi,kij,wj->kw", WAVES, COVARIANCES, WAVES))
    phase = MEANS @ WAVES.T
    each = [MEANS, second.diagonal(dim1=1, dim2=2), second[:, 0, 1:], damp * phase.cos(), damp * phase.sin()]
    return WEIGHTS @ torch.cat(each, 1)


def mixture_z(x):
    """z of every feature average of x (N, 2) against the mixture; the standard errors are estimated from x."""
    features = mixture_features(x)
    return (features.mean(0) - mixture_expectations()) / features.std(0) * len(x) ** 0.5


def mixture_draw(count, seed):
    """Independent exact samples (count, 2)."""
    rng = np.random.default_rng(seed)
    which = torch.from_numpy(rng.choice(3, count, p=WEIGHTS.numpy()))
    xi = torch.from_numpy(rng.standard_normal((count, 2)))
    return MEANS[which] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(COVARIANCES)[which], xi)


# --- Wrong models, for negative controls


class Scaled(MixtureScore):
    """Its score is 0.9 times the right one."""

    def denoised(self, z, rho, cond):
        return z + 0.9 * (super().denoised(z, rho, cond) - z)


class Biased(MixtureScore):
    """Its denoised value is off by 0.05."""

    def denoised(self, z, rho, cond):
        return super().denoised(z, rho, cond) + 0.05


def wrong(kind, right):
    """A wrong model made from the parts of a right one."""
    other = kind(right.process, right.weights, right.means, right.covariances)
    other.dtype, other.rho_range, other.moments = right.dtype, right.rho_range, right.moments
    return other


class Frozen(Denoiser):
    """The denoiser of a single known point: every x_0 is `point`."""

    def __init__(self, process, point):
        self.process, self.point = process, point
        self.dtype, self.device = point.dtype, point.device
        self.rho_range, self.data_std = (1e-3, 20.0), 1.0
        self.moments = Moments(point, torch.zeros(len(point), len(point), dtype=point.dtype))

    def denoised(self, z, rho, cond):
        return self.point.to(z).expand_as(z)
