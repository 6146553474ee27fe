"""Products of few rows in Triton, interpreted, against products in double precision."""

import pytest
import torch

from gllm.kernels import cuda
from gllm.kernels.few_rows import few_rows_linear
from gllm.kernels.tuning import PRODUCTS, ProductTiling, has_own_products

pytestmark = pytest.mark.usefixtures("interpreter")
SMALL = ProductTiling(16, 32, 4, 3, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_out", "num_in"), [(32, 64), (50, 96), (33, 41)])
@pytest.mark.parametrize("rows", [1, 8, 11])
def test_a_product_is_right_at_every_border(rows: int, num_out: int, num_in: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows + num_out)
    wide = torch.randn(rows, num_in + 16).to(dtype)
    x, weight, bias = wide[:, :num_in], torch.randn(num_out, num_in).to(dtype), torch.randn(num_out).to(dtype)
    for some in (None, bias):
        want = x.double() @ weight.double().T + (0.0 if some is None else some.double())
        got = few_rows_linear(x, weight, some, SMALL)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, atol=0.05, rtol=0.02)


def test_a_row_gets_the_same_bits_among_any_number_of_rows() -> None:
    x, weight = torch.randn(20, 64).half(), torch.randn(32, 64).half()
    together = few_rows_linear(x, weight, None, SMALL)
    for count in (1, 3, 9, 17):
        assert torch.equal(few_rows_linear(x[:count], weight, None, SMALL), together[:count])


def test_the_backend_takes_its_own_product_for_few_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRODUCTS, 90, ((0, ProductTiling(16, 32, 4, 3, 4)),))
    assert has_own_products()
    taken: list[int] = []

    def few(x: torch.Tensor, *_: object) -> torch.Tensor:
        taken.append(len(x))
        return x

    monkeypatch.setattr("gllm.kernels.few_rows.few_rows_linear", few)
    product = cuda.linear(torch.randn(32, 64))
    for rows in (0, 1, 4, 5):
        product(torch.randn(rows, 64))
    assert taken == [1, 4]
