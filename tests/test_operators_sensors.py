"""The sensor operator: values, adjoint, gradients, dtypes and refusals."""

import numpy as np
import pytest
import torch

from fokker.errors import InputError
from fokker.operators.sensors import SensorArray


@pytest.fixture
def operator() -> SensorArray:
    return SensorArray(np.random.default_rng(0).normal(size=(4, 7)))


def _normal(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_values_and_batch_shapes(operator: SensorArray) -> None:
    x = _normal(2, 3, 7)
    expected = np.einsum("ij,abj->abi", operator.matrix().numpy(), x.numpy())
    np.testing.assert_allclose(operator(x).numpy(), expected, rtol=1e-13, atol=1e-13)
    assert operator.shape == (4, 7)
    assert operator(x[0, 0]).shape == (4,)
    assert operator.adjoint(_normal(5, 4)).shape == (5, 7)


def test_adjoint_identity(operator: SensorArray) -> None:
    x, y = _normal(6, 7), _normal(6, 4)
    left, right = (operator(x) * y).sum(-1), (x * operator.adjoint(y)).sum(-1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_autograd_gives_the_adjoint(operator: SensorArray) -> None:
    x, y = _normal(3, 7).requires_grad_(), _normal(3, 4)
    assert torch.autograd.gradcheck(operator, (x,))
    (vjp,) = torch.autograd.grad(operator(x), x, y)
    torch.testing.assert_close(vjp, operator.adjoint(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_has_the_dtype_of_the_argument(operator: SensorArray, dtype: torch.dtype) -> None:
    assert operator(_normal(2, 7, dtype=dtype)).dtype == dtype
    assert operator.adjoint(_normal(2, 4, dtype=dtype)).dtype == dtype
    assert operator.matrix().dtype == torch.float64


def test_the_matrix_is_a_copy() -> None:
    source = np.eye(3)
    operator = SensorArray(source)
    source[0, 0] = 5.0
    assert operator.matrix()[0, 0] == 1.0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(3), r"\(3,\)"),
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.array([[1.0, np.nan]]), r"entry \(0, 1\) is nan"),
        (torch.tensor([[float("inf")]]), r"entry \(0, 0\) is inf"),
    ],
)
def test_refused_matrices(matrix: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SensorArray(matrix)


def test_refused_arguments(operator: SensorArray) -> None:
    with pytest.raises(InputError, match=r"x of shape \(2, 4\), \(\.\.\., 7\) is accepted"):
        operator(_normal(2, 4))
    with pytest.raises(InputError, match=r"y of shape \(2, 7\), \(\.\.\., 4\) is accepted"):
        operator.adjoint(_normal(2, 7))
    with pytest.raises(InputError, match="int64"):
        operator(torch.ones(7, dtype=torch.int64))
    with pytest.raises(InputError, match="ndarray"):
        operator(np.ones(7))
