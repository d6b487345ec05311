"""Forward operators: one list drives the same tests for all; then the exact values of each."""

import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.fft import dctn

import fokker
from fokker import operators as ops
from fokker.errors import InputError
from fokker.grids import Grid
from fokker.operators.base import RANK_CUT
from fokker.operators.least_squares import TOLERANCE
from fokker.pde.reaction import Channel, LogisticReaction
from fokker.random_fields import CosineField

IMAGE = (2, 6, 5)
KERNEL = np.random.default_rng(3).uniform(0, 1, (3, 4))  # no symmetry, one even side
KERNEL[1, 2] += 4  # the middle: not close to singular
BOX = np.ones((1, 2))  # its transfer function vanishes at the highest frequency of an even side


@dataclass(frozen=True)
class Row:
    """make: the operator; step, error: of central differences, for gradcheck (absolute, for entries of order one)."""

    make: Callable[[], Callable]
    step: float = 1e-6
    error: float = 1e-6
    x_shape: tuple[int, ...] | None = None


def _channel():
    return ops.ChannelSensors(LogisticReaction(Channel(velocity=12.0, diffusivity=4.0, segments=3), nx=8, ny=6))


LINEAR = {
    "matrix": Row(lambda: ops.Matrix(np.random.default_rng(0).normal(size=(8, 12)), (3, 4), (2, 4))),
    "matrix_tall_deficient": Row(lambda: ops.Matrix(np.arange(40.0).reshape(10, 4))),  # rank 2
    "matrix_zero": Row(lambda: ops.Matrix(np.zeros((2, 3)))),
    "sensors": Row(lambda: ops.SensorArray(np.random.default_rng(1).normal(size=(4, 7)))),
    "identity": Row(lambda: ops.Identity(IMAGE)),
    "inpainting": Row(lambda: ops.Inpainting(np.random.default_rng(2).uniform(size=IMAGE) < 0.5)),
    "inpainting_box": Row(lambda: ops.Inpainting.box(IMAGE, 1, 2, 3, 2)),
    "inpainting_random": Row(lambda: ops.Inpainting.random(IMAGE, 0.4)),
    "subsampling": Row(lambda: ops.Subsampling(IMAGE, 2)),
    "super_resolution": Row(lambda: ops.SuperResolution((2, 6, 4), 2)),
    "blur_subsample": Row(lambda: ops.Subsampling(IMAGE, 2) @ ops.Blur(KERNEL, IMAGE, "reflect")),
    "gaussian_sensing": Row(lambda: ops.CompressedSensing(IMAGE, 20)),
    "cosine_sensing": Row(lambda: ops.CosineSensing(IMAGE, 20)),
    "radon": Row(lambda: ops.RadonTransform((2, 5, 5), np.arange(0, 180, 20.0))),
    "composition": Row(lambda: ops.Inpainting.random(IMAGE, 0.5) @ ops.Blur(KERNEL, IMAGE)),
    "poisson": Row(lambda: ops.DirichletSolve((2, 5, 4))),
    "helmholtz": Row(lambda: ops.DirichletSolve((5, 6), 30.0)),  # between two eigenvalues: of both signs
    "poisson_seen": Row(lambda: ops.Inpainting.random((5, 6), 0.4) @ ops.DirichletSolve((5, 6))),
    "point_values": Row(lambda: ops.PointValues((4, 5), [[0.1, 0.2], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])),
    "blur_singular": Row(lambda: ops.Blur(BOX, (3, 4))),
    **{f"blur_signal_{b}": Row(lambda b=b: ops.Blur(KERNEL[1], (9,), b)) for b in ("periodic", "zero", "reflect")},
    **{f"blur_{b}": Row(lambda b=b: ops.Blur(KERNEL, IMAGE, b)) for b in ("periodic", "zero", "reflect", "replicate")},
}
NONLINEAR = {
    "phase_retrieval": Row(lambda: ops.PhaseRetrieval(IMAGE)),
    "clip": Row(lambda: ops.Clip(), x_shape=IMAGE),
    "clip_blur": Row(lambda: ops.Clip() @ ops.Blur(KERNEL / KERNEL.sum(), IMAGE, "zero")),
    "blur_clip": Row(lambda: ops.Blur(KERNEL, IMAGE, "zero") @ ops.Clip()),
    "channel": Row(_channel, step=1e-3, error=1e-5),  # the solver's tolerance over the step
}
ALL = LINEAR | NONLINEAR
MADE = {name: row.make() for name, row in ALL.items()}
SPECTRAL = [name for name in LINEAR if isinstance(MADE[name], ops.SpectralOperator)]
every = pytest.mark.parametrize("name", ALL)
linear = pytest.mark.parametrize("name", LINEAR)
spectral = pytest.mark.parametrize("name", SPECTRAL)


def _draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _inputs(name: str, count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Rows x, away from the corners of a clip; fluxes are positive."""
    shape = MADE[name].x_shape or ALL[name].x_shape or IMAGE
    x = _draw(count, *shape)
    x = x.abs() + 1 if name == "channel" else x + 0.01 * ((2 * x.abs() - 1).abs() < 0.01)
    return x.to(dtype)


def _adjoint_defect(apply: Callable, adjoint: Callable, x_shape: tuple, y_shape: tuple) -> float:
    """Largest |<A x, y> - <x, A^T y>| / (|A x| |y| + |x| |A^T y|) over 5 pairs."""
    x, y = _draw(5, *x_shape), _draw(5, *y_shape, seed=2)
    ax, aty = apply(x).flatten(1), adjoint(y).flatten(1)
    x, y = x.flatten(1), y.flatten(1)
    scale = ax.norm(dim=1) * y.norm(dim=1) + x.norm(dim=1) * aty.norm(dim=1)
    return float((((ax * y).sum(1) - (x * aty).sum(1)).abs() / scale.clamp(min=1e-300)).max())


@linear
def test_adjoint(name: str) -> None:
    a = MADE[name]
    assert _adjoint_defect(a, a.adjoint, a.x_shape, a.y_shape) < 1e-15


def test_control_a_wrong_adjoint_is_flagged() -> None:
    """A convolution where the correlation belongs, and one with the boundary of another blur."""
    blur, other = ops.Blur(KERNEL, IMAGE, "zero"), ops.Blur(KERNEL, IMAGE, "replicate")
    for wrong in (blur, other.adjoint):
        assert _adjoint_defect(blur, wrong, IMAGE, IMAGE) > 1e-3


@linear
def test_matrix_and_shapes(name: str) -> None:
    a = MADE[name]
    m, n = a.shape
    matrix, x, y = a.matrix(), _draw(3, *a.x_shape), _draw(3, *a.y_shape)
    assert matrix.shape == (m, n) and matrix.dtype == torch.float64 and matrix.device.type == "cpu"
    torch.testing.assert_close(a(x).flatten(1), x.flatten(1) @ matrix.T, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(a.adjoint(y).flatten(1), y.flatten(1) @ matrix, rtol=1e-13, atol=1e-13)
    assert a(x).shape == (3, *a.y_shape) and a.adjoint(y).shape == (3, *a.x_shape)
    torch.testing.assert_close(a(x.reshape(1, 3, *a.x_shape))[0], a(x))
    torch.testing.assert_close(a(x[0]), a(x)[0])


def _pinv(a: ops.LinearOperator) -> tuple[np.ndarray, float]:
    """numpy's pseudo-inverse, and the condition number without the zeros."""
    s = np.linalg.svd(a.matrix().numpy(), compute_uv=False)
    kept = s[s > RANK_CUT * s[0]]
    return np.linalg.pinv(a.matrix().numpy(), rcond=RANK_CUT), kept[0] / kept[-1] if kept.size else 1.0


@linear
def test_pseudo_inverse(name: str) -> None:
    """Exact to rounding times the condition number k where the spectrum is known; by iteration to its tolerance times
    k^2, since |x - x+| <= |A^T r| / s_r^2 and |A^T y| <= s_1^2 |x+|."""
    a = MADE[name]
    pinv, condition = _pinv(a)
    y = _draw(4, *a.y_shape)
    expected = y.flatten(1) @ torch.from_numpy(pinv).T
    found = a.pseudo_inverse(y)
    assert found.shape == (4, *a.x_shape)
    allowed = 1e-13 * condition if name in SPECTRAL else max(10 * TOLERANCE, 1e-13) * condition**2
    assert allowed < 1e-5
    assert bool(((found.flatten(1) - expected).norm(dim=1) <= allowed * expected.norm(dim=1) + 1e-14).all())


def test_pseudo_inverse_is_differentiable() -> None:
    for name in ("radon", "blur_zero", "blur_periodic", "matrix_tall_deficient"):
        a = MADE[name]
        y = _draw(2, *a.y_shape).requires_grad_()
        (gradient,) = torch.autograd.grad((a.pseudo_inverse(y) * (g := _draw(2, *a.x_shape, seed=5))).sum(), y)
        expected = g.flatten(1) @ torch.from_numpy(_pinv(a)[0])
        torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-6, atol=1e-8)


def test_every_row_of_the_iteration_stops_by_itself() -> None:
    """Rows of very different size and difficulty together, a row of zeros among them, as one by one."""
    a = MADE["blur_zero"]
    y = _draw(4, *a.y_shape) * torch.tensor([1.0, 1e8, 1e-8, 0.0], dtype=torch.float64)[:, None, None, None]
    together, alone = a.pseudo_inverse(y), torch.cat([a.pseudo_inverse(row[None]) for row in y])
    for one, other in zip(together, alone):
        assert float((one - other).norm()) <= 1e-9 * float(other.norm())
    assert not together[3].any()


@spectral
def test_singular_value_decomposition(name: str) -> None:
    a = MADE[name]
    n, r, s = a.shape[1], a.rank, a.singular_values
    v = a.from_spectrum(torch.eye(n, dtype=torch.float64)).flatten(1)  # rows: columns of V
    u = a.data_from_spectrum(torch.eye(r, dtype=torch.float64)).flatten(1)
    close = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(v @ v.T, torch.eye(n, dtype=torch.float64), **close)
    torch.testing.assert_close(u @ u.T, torch.eye(r, dtype=torch.float64), **close)
    torch.testing.assert_close(u.T * s @ v[:r], a.matrix(), rtol=0, atol=1e-13 * float(s.sum() + 1))
    x, y = _draw(3, *a.x_shape), _draw(3, *a.y_shape)
    torch.testing.assert_close(a.to_spectrum(x), x.flatten(1) @ v.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(a.data_to_spectrum(y), y.flatten(1) @ u.T, rtol=0, atol=1e-12)
    wanted = (y.flatten(1) @ u.T / (2.0 * s**2 + 0.3)) @ u
    torch.testing.assert_close(a.solve_normal(y, 2.0, 0.3).flatten(1), wanted, rtol=0, atol=1e-12)
    expected = np.linalg.svd(a.matrix().numpy(), compute_uv=False)
    expected = expected[expected > RANK_CUT * expected[0]]
    assert s.dtype == torch.float64 and s.shape == expected.shape == (r,)
    np.testing.assert_allclose(s.numpy(), expected, rtol=1e-11)


def test_which_are_spectral() -> None:
    unknown = {"blur_zero", "blur_reflect", "blur_replicate", "radon", "blur_subsample", "composition"}
    unknown |= {"blur_signal_zero", "blur_signal_reflect"}
    unknown |= {"poisson_seen", "point_values"}
    assert set(LINEAR) - set(SPECTRAL) == unknown
    assert MADE["blur_singular"].rank == 9  # of 12: the highest frequency along the rows is lost
    assert MADE["matrix_tall_deficient"].rank == 2 and MADE["matrix_zero"].rank == 0


@every
def test_gradient(name: str) -> None:
    """Reverse and forward derivatives against central differences."""
    x, row = _inputs(name, 2).requires_grad_(), ALL[name]
    kinds = {"check_forward_ad": True, "check_undefined_grad": False}
    assert torch.autograd.gradcheck(MADE[name], (x,), eps=row.step, atol=row.error, rtol=row.error, **kinds)


@linear
def test_autograd_gives_the_adjoint_twice(name: str) -> None:
    a = MADE[name]
    x, y = _draw(2, *a.x_shape).requires_grad_(), _draw(2, *a.y_shape, seed=4).requires_grad_()
    (vjp,) = torch.autograd.grad(a(x), x, y, create_graph=True)
    torch.testing.assert_close(vjp, a.adjoint(y), rtol=1e-13, atol=1e-13)
    (again,) = torch.autograd.grad(vjp, y, x)
    torch.testing.assert_close(again, a(x), rtol=1e-13, atol=1e-13)


@every
def test_rows_do_not_know_of_each_other(name: str) -> None:
    x = _inputs(name, 7)
    y = MADE[name](x)
    parts = torch.cat([MADE[name](x[:1]), MADE[name](x[1:5]), MADE[name](x[5:])])
    torch.testing.assert_close(parts, y, rtol=1e-12, atol=1e-12)
    # The gradient of a row is no other row's.
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(MADE[name](x)[3].sum(), x)
    assert not gradient[[0, 1, 2, 4, 5, 6]].any()


@every
def test_dtype_is_kept(name: str) -> None:
    single, double = _inputs(name, 3, torch.float32), _inputs(name, 3)
    y = MADE[name](single)
    assert y.dtype == torch.float32 and MADE[name](double).dtype == torch.float64
    torch.testing.assert_close(y.double(), MADE[name](single.double()), rtol=1e-4, atol=1e-4)
    if name in LINEAR:
        a = MADE[name]
        for dtype in (torch.float32, torch.float64):
            data = _draw(2, *a.y_shape, dtype=dtype)
            assert a.adjoint(data).dtype == a.pseudo_inverse(data).dtype == dtype
        if name in SPECTRAL:
            assert a.to_spectrum(single).dtype == a.data_to_spectrum(y).dtype == torch.float32


@linear
def test_pickled(name: str) -> None:
    x, a = _draw(2, *MADE[name].x_shape), MADE[name]
    again = pickle.loads(pickle.dumps(a))
    assert type(again) is type(a) and torch.equal(again(x), a(x))


@every
def test_refused_arguments(name: str) -> None:
    a, x = MADE[name], _inputs(name, 2)
    title = r"[A-Z]\w+( @ [A-Z]\w+)?: got "
    for bad, kind in ((x.half(), "torch.float16"), (x.long(), "torch.int64"), (x.numpy(), "ndarray")):
        with pytest.raises(InputError, match=f"{title}x of type {kind}, a tensor of float32 or float64 is accepted$"):
            a(bad)
    if a.x_shape is not None:
        accepted = r", ".join(map(str, a.x_shape))
        with pytest.raises(InputError, match=rf"{title}x of shape \(.*\), \(\.\.\., {accepted}\) is accepted$"):
            a(torch.zeros(2, *a.x_shape[:-1], a.x_shape[-1] + 1))
    if name in LINEAR:
        wrong = torch.zeros(2, *a.y_shape[:-1], a.y_shape[-1] + 1)
        for function in (a.adjoint, a.pseudo_inverse):
            with pytest.raises(InputError, match=rf"{title}y of shape .* is accepted$"):
                function(wrong)
    if name in SPECTRAL:
        for function in (a.from_spectrum, a.data_from_spectrum):
            with pytest.raises(InputError, match=rf"{title}coefficients of shape .* is accepted$"):
                function(torch.zeros(2, 1000))


IMAGES = (4, 4)
NAN = np.array([[1.0, np.nan, 0.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ops.Matrix(np.zeros(3)), r"Matrix: matrix: got shape \(3,\)"),
        (lambda: ops.Matrix(np.ones((1, 2)) * 1j), "Matrix: matrix: got complex numbers"),
        (lambda: ops.Matrix("abc"), "Matrix: matrix: got str, an array of numbers"),
        (lambda: ops.Matrix(NAN), r"Matrix: matrix: entry \(0, 1\) is nan, finite"),
        (lambda: ops.Matrix(np.eye(3), (4,)), r"a matrix \(3, 3\) with x_shape \(4,\)"),
        (lambda: ops.Matrix(np.eye(3), (0, 3)), r"Matrix: x_shape: got \(0, 3\), a tuple of whole numbers"),
        (lambda: ops.Identity(4), "Identity: x_shape: got 4, a tuple"),
        (lambda: ops.Inpainting(np.ones(IMAGES)), "Inpainting: mask is of type torch.float64, booleans"),
        (lambda: ops.Inpainting(np.zeros(IMAGES, bool)), "Inpainting: got a mask without True"),
        (lambda: ops.Inpainting(np.ones(3, bool), IMAGES), r"mask of shape \(3,\), one that broadcasts to \(4, 4\)"),
        (lambda: ops.Inpainting.box(IMAGES, 2, 0, 3, 1), "Inpainting: height: got 3, a whole number from 1 to 2"),
        (lambda: ops.Inpainting.box(IMAGES, 0, 0, 4, 4), "without True"),
        (lambda: ops.Inpainting.random((4,), 0.5), r"Inpainting: x_shape: got \(4,\), the shape of an image"),
        (lambda: ops.Inpainting.random(IMAGES, 0), "Inpainting: keep: got 0, a number above 0"),
        (lambda: ops.Inpainting.random(IMAGES, 0.5, seed=-1), "seed: got -1"),
        (lambda: ops.Subsampling(IMAGES, 5), "Subsampling: factor: got 5, a whole number from 1 to 4"),
        (lambda: ops.SuperResolution(IMAGES, 3), "SuperResolution: factor: got 3, a divisor of both sides of 4 x 4"),
        (lambda: ops.CosineSensing(IMAGES, 17), "CosineSensing: count: got 17, a whole number from 1 to 16"),
        (lambda: ops.CompressedSensing(IMAGES, 0), "CompressedSensing: count: got 0, a whole number from 1 on"),
        (lambda: ops.Blur(NAN, IMAGES), r"Blur: kernel: entry \(0, 1\) is nan, finite numbers"),
        (lambda: ops.Blur(np.zeros((2, 2)), IMAGES), "Blur: kernel is zero everywhere"),
        (lambda: ops.Blur(np.ones((5, 1)), IMAGES), r"Blur: kernel has shape \(5, 1\), one of at most 4 x 4"),
        (lambda: ops.Blur(np.ones(3), IMAGES), r"Blur: kernel: got shape \(3,\), an array with 2 axes"),
        (lambda: ops.Blur(KERNEL, (8,)), r"Blur: kernel: got shape \(3, 4\), an array with 1 axes"),
        (lambda: ops.Blur(np.ones(9), (8,)), r"Blur: kernel has shape \(9,\), one of at most 8 not"),
        (lambda: ops.Blur(KERNEL, ()), r"Blur: x_shape: got \(\), the shape of an image"),
        (lambda: ops.Blur(KERNEL, IMAGES, "wrap"), "Blur: boundary: got 'wrap', one of periodic, zero"),
        (lambda: ops.gaussian_kernel(0.0), "kernel: std: got 0.0, a positive"),
        (lambda: ops.gaussian_kernel(1.0, 4), "kernel: size: got 4, an odd"),
        (lambda: ops.motion_kernel(-1.0, 0.0), "kernel: length: got -1.0"),
        (lambda: ops.motion_kernel(3.0, math.nan), "kernel: angle: got nan"),
        (lambda: ops.random_motion_kernel(4), "kernel: size: got 4, an odd"),
        (lambda: ops.RadonTransform((4, 5), [0.0]), "RadonTransform: x_shape: got 4 x 5 pixels, square"),
        (lambda: ops.RadonTransform(IMAGES, [0.0, np.inf]), r"RadonTransform: angles: entry \(1,\) is inf"),
        (lambda: ops.RadonTransform(IMAGES, []), r"RadonTransform: angles: got shape \(0,\)"),
        (lambda: ops.PhaseRetrieval(IMAGES, 0.5), "PhaseRetrieval: oversampling: got 0.5, a number from 1 on"),
        (lambda: ops.Clip(low=1.0, high=1.0), "Clip: low and high: got 1.0 and 1.0"),
        (lambda: ops.Clip(gain=math.inf), "Clip: gain: got inf"),
        (lambda: ops.ChannelSensors(MADE["channel"].solver, [[9.0, 1.0]]), r"points: point 0 is \(9, 1\)"),
        (lambda: ops.DirichletSolve((4,)), r"DirichletSolve: shape: got \(4,\), the shape of an image"),
        (lambda: ops.DirichletSolve(IMAGES, math.nan), "DirichletSolve: shift: got nan, a finite number"),
        (lambda: ops.DirichletSolve(IMAGES, 5 * math.pi**2), "DirichletSolve: shift: got 49.3.*, an eigenvalue"),
        (lambda: ops.PointValues((4, 5), [[0.5, 1.1]]), r"points: got \(0.5, 1.1\) as point 0"),
        (lambda: ops.PointValues((4, 5), [[0.5]]), r"points: got shape \(1, 1\)"),
        (lambda: ops.Identity(IMAGES) @ ops.Identity((3,)), r"Identity @ Identity: got shape \(3,\) from the second"),
        (lambda: ops.Identity((3,)) @ ops.PhaseRetrieval(IMAGES), "Identity @ PhaseRetrieval: got shape"),
        (lambda: ops.Identity(IMAGES) @ torch.zeros(IMAGES), r"Identity @: got Tensor, an operator is accepted"),
    ],
)
def test_refused_constructions(make: Callable, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_composition() -> None:
    """Linear with linear stays linear; with any callable it is a callable of the shapes that are known."""
    blur, mask, phase = MADE["blur_zero"], MADE["inpainting_random"], MADE["phase_retrieval"]
    x = _draw(3, *IMAGE)
    both = mask @ blur
    assert isinstance(both, fokker.LinearOperator) and isinstance(mask.compose(blur), ops.Composition)
    torch.testing.assert_close(both.matrix(), mask.matrix() @ blur.matrix(), rtol=1e-12, atol=1e-12)
    square = blur @ torch.square
    assert not isinstance(square, fokker.LinearOperator) and square.y_shape == IMAGE and square.x_shape is None
    torch.testing.assert_close(square(x), blur(x**2))
    after = phase @ blur
    assert (after.x_shape, after.y_shape, after.name) == (IMAGE, phase.y_shape, "PhaseRetrieval @ Blur")
    torch.testing.assert_close(after(x), phase(blur(x)))
    assert (torch.tanh @ blur).name == "tanh @ Blur"
    torch.testing.assert_close((torch.tanh @ blur)(x), blur(x).tanh())


def test_values_of_selections() -> None:
    x = _draw(3, *IMAGE)
    mask = np.random.default_rng(2).uniform(size=IMAGE) < 0.5
    torch.testing.assert_close(MADE["inpainting"](x), x[:, torch.from_numpy(mask)])
    seen = torch.ones(IMAGE, dtype=torch.bool)
    seen[:, 1:4, 2:4] = False
    torch.testing.assert_close(MADE["inpainting_box"](x), x[:, seen])
    random = MADE["inpainting_random"]
    pixels = random.adjoint(torch.ones(random.y_shape))
    assert pixels[0].sum() == 12 and torch.equal(pixels[0], pixels[1])  # 0.4 of 30 pixels, the same in both channels
    assert not torch.equal(ops.Inpainting.random(IMAGE, 0.4, seed=1).adjoint(torch.ones(24)), pixels)
    torch.testing.assert_close(MADE["subsampling"](x), x[..., ::2, ::2])
    blocks = _draw(3, 2, 6, 4)
    torch.testing.assert_close(MADE["super_resolution"](blocks), torch.nn.functional.avg_pool2d(blocks, 2))
    waves = torch.from_numpy(dctn(x.numpy(), axes=(-2, -1), norm="ortho")).flatten(1)
    sensing = MADE["cosine_sensing"]
    torch.testing.assert_close(sensing(x), waves[:, sensing._order[:20]], rtol=1e-12, atol=1e-12)
    # Entries N(0, 1 / count): the sum of squares of 200 x 60, chi-square; false alarms 1e-4.
    rows = ops.CompressedSensing(IMAGE, 200).matrix() * math.sqrt(200)
    z = (float(rows.square().sum()) - rows.numel()) / math.sqrt(2 * rows.numel())
    assert abs(z) < 3.9 and abs(float(rows.sum())) / math.sqrt(rows.numel()) < 3.9


SCIPY = {"periodic": "wrap", "zero": "constant", "reflect": "mirror", "replicate": "nearest"}


@pytest.mark.parametrize("boundary", SCIPY)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 3), (5, 2), (7, 6)])
def test_blur_is_the_convolution(boundary: str, size: tuple[int, int]) -> None:
    kernel, x = np.random.default_rng(0).normal(size=size), _draw(2, 3, 7, 8)
    expected = ndimage.convolve(x.numpy(), kernel[None, None], mode=SCIPY[boundary])
    np.testing.assert_allclose(ops.Blur(kernel, (3, 7, 8), boundary)(x).numpy(), expected, atol=1e-13)
    one = ndimage.convolve(x[0, 0].numpy(), kernel[:1], mode=SCIPY[boundary])  # signals
    np.testing.assert_allclose(ops.Blur(kernel[0], (8,), boundary)(x[0, 0]).numpy(), one, atol=1e-13)
    if size == (3, 3):
        other = ndimage.convolve(x.numpy(), kernel[None, None], mode="reflect")  # the edge repeated: another boundary
        assert np.abs(expected - other).max() > 0.1 or boundary == "replicate"  # one pixel beyond, the same


def test_kernels() -> None:
    i = np.arange(-3, 4)
    gaussian = np.exp(-(i[:, None] ** 2 + i**2) / (2 * 1.3**2))
    np.testing.assert_allclose(ops.gaussian_kernel(1.3, 7), gaussian / gaussian.sum(), rtol=1e-13)
    assert ops.gaussian_kernel(1.3).shape == (9, 9)
    # 4 pixels along the rows: the outermost points share half a pixel's worth, and so half as much again.
    line = ops.motion_kernel(4.0, 0.0)
    assert line.shape == (5, 5) and not line[[0, 1, 3, 4]].any()
    np.testing.assert_allclose(line[2], np.array([1, 2, 2, 2, 1]) / 8, atol=1e-3)
    np.testing.assert_allclose(ops.motion_kernel(4.0, 90.0), line.T, atol=1e-12)
    up = ops.motion_kernel(6.0, 45.0)
    assert up[1, 5] > 10 * up[1, 1] and up[5, 1] > 10 * up[1, 1]  # upwards to the right
    np.testing.assert_allclose(up, up.flip(0, 1), atol=1e-12)
    shaken = ops.random_motion_kernel(15, seed=4)
    assert torch.equal(shaken, ops.random_motion_kernel(15, seed=4))
    assert not torch.equal(shaken, ops.random_motion_kernel(15, seed=4, index=1))
    assert ops.random_motion_kernel(1).tolist() == [[1.0]]
    for kernel in (line, up, shaken, ops.motion_kernel(2.7, 20.0), ops.gaussian_kernel(0.4)):
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-12) and bool((kernel >= 0).all())


ANGLES = np.array([0.0, 17.0, 45.0, 90.0, 133.0, 180.0])


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """u to the right, v upwards, of the middles of the pixels."""
    middle = np.arange(n) - (n - 1) / 2
    return np.broadcast_to(middle, (n, n)), np.broadcast_to(-middle[:, None], (n, n))


def _chords(radius: float, edges: np.ndarray) -> np.ndarray:
    """Area of a disc in each strip between edges."""
    s = np.clip(edges, -radius, radius)
    return np.diff(s * np.sqrt(radius**2 - s**2) + radius**2 * np.arcsin(s / radius))


def test_radon_of_a_disc() -> None:
    """Pixels are in the disc or not by their middles: the two shapes differ by pixels within sqrt(1/2) of the circle,
    so each strip differs by no more than its part of that annulus."""
    n, radius, at = 64, 15.0, (6.2, -3.7)
    u, v = _grid(n)
    disc = torch.from_numpy(((u - at[0]) ** 2 + (v - at[1]) ** 2 <= radius**2).astype(float))
    radon = ops.RadonTransform((n, n), ANGLES)
    count = radon.y_shape[1]
    angles = np.deg2rad(ANGLES)
    for row, angle in zip(radon(disc).numpy(), angles):
        edges = np.arange(count + 1) - count / 2 - (at[0] * np.cos(angle) + at[1] * np.sin(angle))
        inner, outer = (_chords(radius + sign * math.sqrt(0.5), edges) for sign in (-1, 1))
        assert bool(((row >= inner - 1e-9) & (row <= outer + 1e-9)).all())
        np.testing.assert_allclose(row, _chords(radius, edges), atol=2.5)  # of a diameter of 30
    mirrored = radon(disc.flip(0)).numpy()
    assert np.abs(mirrored - radon(disc).numpy())[1:5].max() > 5  # control: the disc below the middle line


def test_radon_of_a_gaussian() -> None:
    """exp(-|x - a|^2 / (2 s^2)) has the shadow f = s sqrt(2 pi) exp(-(t - a.theta)^2 / (2 s^2)). Pixels and strips
    smooth it with a variance of 1/6, which costs f / (12 s^2) at the top; most at 0 and 90 degrees, where with N and D
    of unlike parity a strip takes halves of two columns, a variance of 1/4."""
    errors = []
    for n, s in ((65, 5.0), (131, 10.0)):
        u, v = _grid(n)
        at = (0.1 * n, 0.06 * n)
        blob = torch.from_numpy(np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / (2 * s**2)))
        radon = ops.RadonTransform((n, n), ANGLES)
        count, angles = radon.y_shape[1], np.deg2rad(ANGLES)[:, None]
        t = np.arange(count) - (count - 1) / 2 - (at[0] * np.cos(angles) + at[1] * np.sin(angles))
        exact = s * math.sqrt(2 * math.pi) * np.exp(-(t**2) / (2 * s**2))
        errors.append(np.abs(radon(blob).numpy() - exact).max() / exact.max())
        assert count % 2 != n % 2
        assert errors[-1] < 1 / (8 * s**2)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_radon_keeps_the_mass_and_the_columns() -> None:
    x = _draw(2, 8, 8)
    angles = np.linspace(-360, 360, 97)
    shadows = ops.RadonTransform((8, 8), angles)(x)
    assert shadows.shape == (2, 97, 12)
    torch.testing.assert_close(shadows.sum(-1), x.sum((1, 2))[:, None].expand(2, 97), rtol=0, atol=1e-12)
    np.testing.assert_allclose(shadows[:, angles == 0, 2:10].squeeze(), x.sum(1), atol=1e-12)
    np.testing.assert_allclose(shadows[:, angles == 90, 2:10].squeeze(), x.sum(2).flip(1), atol=1e-12)
    turned = shadows[:, angles == 0].flip(2)
    np.testing.assert_allclose(shadows[:, angles == -180], turned, atol=1e-12)


def test_radon_of_one_pixel_is_a_sum_of_two_uniform_variables() -> None:
    """The area in a strip is the probability that u lies in it, for a point uniform in the pixel; 1e5 stratified points
    give it to 1e-4."""
    side = (np.arange(400) + 0.5) / 400 - 0.5
    for angle in (13.0, 45.0, 71.0, 160.0):
        turn = np.deg2rad(angle)
        u = (2 + side)[:, None] * np.cos(turn) + (1 + side) * np.sin(turn)
        expected = np.histogram(u, np.arange(9) - 4.0)[0] / side.size**2
        x = torch.zeros(5, 5, dtype=torch.float64)
        x[1, 4] = 1.0
        np.testing.assert_allclose(ops.RadonTransform((5, 5), [angle])(x)[0], expected, atol=5e-3)


def test_phase_retrieval() -> None:
    phase, x = MADE["phase_retrieval"], _draw(3, *IMAGE)
    assert phase.y_shape == (2, 12, 10) and ops.PhaseRetrieval((3, 4), 1.5).y_shape == (5, 6)
    y = phase(x)
    np.testing.assert_allclose(y, np.abs(np.fft.fft2(x.numpy(), s=(12, 10), norm="ortho")), atol=1e-12)
    for same in (-x, x.flip(-2, -1)):
        torch.testing.assert_close(phase(same), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    assert not torch.allclose(phase(x.flip(-1)), y)  # control: one axis alone is no invariance
    inside = torch.zeros(1, *IMAGE, dtype=torch.float64)
    inside[..., :4, :4] = x[:1, :, :4, :4]
    torch.testing.assert_close(phase(inside.roll((2, 1), (-2, -1))), phase(inside), rtol=1e-12, atol=1e-12)
    zero = torch.zeros(1, *IMAGE, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(phase(zero).sum(), zero)
    assert not gradient.any()  # 0 where the modulus has no derivative, never NaN


def test_clip() -> None:
    x = torch.tensor([-2.0, -0.6, 0.2, 0.4, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    y = ops.Clip()(x)
    np.testing.assert_allclose(y.detach(), [-1, -1, 0.4, 0.8, 1, 1])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [0, 0, 2, 2, 0, 0]
    with pytest.raises(InputError, match="Clip: got x of shape"):
        ops.Clip(x_shape=(3,))(x)


def test_channel_by_its_adjoint() -> None:
    """Values of the solver; rows of the Jacobian by the adjoint and by factorisation; NaN without a solution."""
    operator = MADE["channel"]
    model, x = operator.solver, _inputs("channel", 3)
    np.testing.assert_allclose(operator(x), model.observe(x.numpy()).values, rtol=1e-12)
    jacobian = model.jacobian(model.solve(x.numpy()))
    for j in range(operator.y_shape[0]):
        x.requires_grad_()
        (row,) = torch.autograd.grad(operator(x)[:, j].sum(), x)
        np.testing.assert_allclose(row, jacobian[:, j], atol=1e-8)
    _, tangent = torch.func.jvp(operator, (x.detach(),), (_draw(3, 6),))
    np.testing.assert_allclose(tangent, np.einsum("bij,bj->bi", jacobian, _draw(3, 6)), rtol=1e-12)
    _, pull = torch.func.vjp(operator, x.detach())
    cotangent = _draw(3, 6, seed=2)
    np.testing.assert_allclose(pull(cotangent)[0], np.einsum("bij,bi->bj", jacobian, cotangent), atol=1e-8)
    (gradient,) = torch.autograd.grad(operator(x).sum(), x, create_graph=True)
    with pytest.raises(InputError, match="second derivatives"):  # there are none, and none is made up
        gradient.sum().backward()
    bad = torch.stack([x[0].detach(), torch.full((6,), -50.0, dtype=torch.float64)]).requires_grad_()
    y = operator(bad)
    assert y[0].isfinite().all() and y[1].isnan().all()
    (gradient,) = torch.autograd.grad(y.sum(), bad)
    assert gradient[0].isfinite().all() and gradient[1].isnan().all()
    points = [[1.0, 0.5], [8.5, 2.0]]
    x = x.detach()
    np.testing.assert_allclose(ops.ChannelSensors(model, points)(x), model.observe(x.numpy(), points).values)
    with pytest.raises(InputError, match=r"flux: entry \(0, 0\) is nan"):
        operator(torch.full((1, 6), math.nan))


def test_where_they_are_found() -> None:
    assert fokker.operators is ops and fokker.SpectralOperator is ops.SpectralOperator
    assert all(hasattr(ops, name) for name in ops.__all__)


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
def test_dirichlet_solve_has_the_eigenfunctions_of_the_laplacian(shift: float) -> None:
    solve, (y, x) = ops.DirichletSolve((8, 6), shift), ((torch.arange(n).double() + 0.5) / n for n in (8, 6))
    for k, j in ((1, 1), (3, 2), (8, 6)):
        wave = torch.sin(math.pi * k * y)[:, None] * torch.sin(math.pi * j * x)
        torch.testing.assert_close(solve(wave), wave / (shift - math.pi**2 * (k**2 + j**2)), rtol=0, atol=1e-15)


def test_dirichlet_solve_converges_to_a_solution() -> None:
    """u = x (1 - x) y (1 - y): Lap u = -2 (x (1 - x) + y (1 - y)) is not zero on the boundary, so at order 2."""
    errors = []
    for n in (16, 32, 64):
        x = (torch.arange(n).double() + 0.5) / n
        bump = x * (1 - x)
        u = bump[:, None] * bump
        a = -2 * (bump[:, None] + bump) + u
        errors.append(float((ops.DirichletSolve((n, n), 1.0)(a) - u).abs().max()))
    assert errors[2] < 1e-5 and all(3.5 < old / new < 4.5 for old, new in itertools.pairwise(errors))


def test_point_values_are_those_of_a_sum_of_cosines() -> None:
    """Any function of the grid's cosines is met anywhere; the cells' own values whatever they are; no point is fine."""
    field = CosineField(dimension=2, modes=5, alpha=1.5)
    coefficients = torch.randn(3, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.rand(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    operator = ops.PointValues((6, 5), points)
    torch.testing.assert_close(operator(field.on_grid(coefficients, (6, 5))), field.at(coefficients, points))
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(ops.PointValues((6, 5), Grid((6, 5)).points)(x), x.flatten(1))
    assert ops.PointValues((6, 5), torch.zeros(0, 2))(x).shape == (2, 0)
