"""Loading takes the weights and one tensor, not twice the weights."""

from bench.load_memory import measure

LARGEST = 2 * 32000 * 2048  # the embedding
SLACK = 24 * 2**20


def test_peak_memory_is_the_weights_and_at_most_one_tensor() -> None:
    (row,) = measure(0.4, ["bfloat16"])
    # Norms may be kept in float32.
    assert 3e8 < row["stored"] <= row["kept"] < 1.001 * row["stored"]
    assert row["peak"] < row["kept"] + LARGEST + SLACK, row
    assert row["after"] < row["kept"] + SLACK, row
