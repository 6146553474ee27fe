"""Numbers as people write them."""

import pytest

from gllm.config.kinds import whole_number


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (7, 7),
        ("7", 7),
        (" 7 ", 7),
        ("-1", -1),
        ("1k", 1000),
        ("1K", 1024),
        ("25.6k", 25600),
        ("1m", 10**6),
        ("1M", 2**20),
        ("2g", 2 * 10**9),
        ("2G", 2**31),
        ("0.5G", 2**29),
        ("1t", 10**12),
        ("1T", 2**40),
        ("256KiB", 2**18),
        ("256MiB", 2**28),
        ("1.5GiB", 3 * 2**29),
        ("1TiB", 2**40),
        ("080", 80),
    ],
)
def test_whole_numbers_are_read_as_people_write_them(written: object, value: int) -> None:
    assert whole_number(written) == value


@pytest.mark.parametrize(
    "written",
    ["", "k", "many", "1e3", "1.5", "25.6K", "0.0001k", "1GB", "1kib", "1 k", "1_000", "--1", "٣", "9" * 5000,
     1.0, True, None, b"1", [1]],
)  # fmt: skip
def test_what_is_not_a_whole_number_is_refused(written: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        whole_number(written)
