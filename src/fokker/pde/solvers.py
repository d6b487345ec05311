"""Sparse factorisations for many right-hand sides, and an accelerated iteration for many systems at once."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, sparray
from scipy.sparse.linalg import splu

Array = NDArray[np.float64]

# Right-hand sides per sparse solve: enough to use each entry of the factors several times, few enough that
# the block stays small beside the factors.
_BLOCK = 16
_DEPTH = 3  # differences that the acceleration combines: more save no iterations on the channel's systems
_DIVERGED = 1e8  # relative residual beyond which an iteration has left for good


class Factorisation:
    """LU factors of a sparse matrix (n, n) with a symmetric pattern, whose pivots may stay on the diagonal.

    That holds where diffusion dominates each cell; the symmetric ordering then halves the fill. Whoever
    solves checks the residual. Raises `RuntimeError` for a matrix that is exactly singular.
    """

    def __init__(self, matrix: sparray) -> None:
        self._lu = splu(csc_array(matrix), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})

    def solve(self, right: Array, adjoint: bool = False) -> Array:
        """X (n, m) with A X = right (n, m), or A^T X = right with `adjoint`."""
        x = np.empty(right.shape)
        for start in range(0, right.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            x[:, block] = self._lu.solve(np.asfortranarray(right[:, block]), "T" if adjoint else "N")
        return x


@dataclass(frozen=True)
class Iterated:
    """Outcome of `accelerated`: the last x (n, m) of each column, its relative residual and iterations (m,)."""

    x: Array
    residual: Array
    iterations: NDArray[np.int64]


def accelerated(
    residual: Callable[[Array, NDArray[np.int64]], tuple[Array, Array]],
    correct: Callable[[Array], Array],
    start: Array,
    tolerance: float,
    limit: int,
) -> Iterated:
    """Solve F_j(x_j) = 0 for the columns j of x (n, m) at once, by x <- x - P F(x) with Anderson's acceleration.

    `residual(x, columns)` returns F (n, k) and the relative residuals (k,) for the columns listed;
    `correct(F)` is P F, about the inverse Jacobian times F. Each column combines its own last three
    differences and leaves the iteration when its relative residual is at most `tolerance`, so its result does
    not depend on the others beyond rounding. Columns also leave when they diverge and after `limit` steps: look
    at the residuals returned. Source: Walker and Ni 2011.
    """
    m = start.shape[1]
    out = Iterated(start.copy(), np.full(m, np.inf), np.zeros(m, dtype=np.int64))
    columns, x = np.arange(m), start
    history: list[tuple[Array, Array]] = []  # P F and x - P F of the latest iterations, newest last
    for iteration in range(limit + 1):
        force, relative = residual(x, columns)
        out.x[:, columns], out.residual[columns], out.iterations[columns] = x, relative, iteration
        going = (relative > tolerance) & (relative < _DIVERGED)  # False for NaN too
        if iteration == limit or not going.any():
            break
        if not going.all():
            columns, x, force = columns[going], x[:, going], force[:, going]
            history = [(step[:, going], proposal[:, going]) for step, proposal in history]
        step = correct(force)
        history = [*history, (step, x - step)][-_DEPTH - 1 :]
        x = _combined(history)
    return out


def _combined(history: list[tuple[Array, Array]]) -> Array:
    """The newest proposal less the combination of differences of proposals that cancels most of the newest step.

    The weights minimise |step - sum_i weight_i (difference of steps)_i| column by column, by normal equations.
    Their small ridge keeps differences that have become parallel from making the equations singular; what it
    costs in accuracy, the next residual sees.
    """
    step, proposal = history[-1]
    pairs = list(pairwise(history))
    k, m = len(pairs), step.shape[1]
    differences = [new[0] - old[0] for old, new in pairs]
    gram, right = np.empty((m, k, k)), np.empty((m, k, 1))
    for i, a in enumerate(differences):
        right[:, i, 0] = np.einsum("nj,nj->j", a, step)
        for j, b in enumerate(differences[: i + 1]):
            gram[:, i, j] = gram[:, j, i] = np.einsum("nj,nj->j", a, b)
    ridge = 1e-13 * np.trace(gram, axis1=1, axis2=2) + np.finfo(np.float64).tiny
    weights = np.linalg.solve(gram + ridge[:, None, None] * np.eye(k), right)[..., 0].T
    x = proposal.copy()
    for weight, (old, new) in zip(weights, pairs, strict=True):
        x -= weight * (new[1] - old[1])
    return x
