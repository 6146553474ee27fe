"""The memory plan, its sentences, and what a host says of itself."""

import random
import re
from pathlib import Path

import pytest
import tiny_checkpoint

from gllm.checkpoint import CheckpointError
from gllm.worker import host
from gllm.worker.memory import CPU_KV_CAP, GIB, Demand, MemoryPlan, MemoryPlanError, Wish, plan_memory
from gllm.worker.options import WorkerOptions
from gllm.worker.start import make_runner

DEMAND = Demand(
    weight_bytes=2 * GIB,
    token_bytes=1 << 16,
    max_num_batched_tokens=4096,
    logits_bytes=GIB // 4,
    context_bytes=1024,
    page_bytes=1 << 20,
    page_size=16,
)


def wish(**changes: object) -> Wish:
    fields = {
        "max_model_len": 8192, "shrink_to_fit": False, "max_num_seqs": 256,
        "gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": None, "num_pages": None,
        "kv_cap_bytes": CPU_KV_CAP,
    }  # fmt: skip
    return Wish(**(fields | changes))


def total(plan: MemoryPlan) -> int:
    demand = plan.demand
    return (
        demand.weight_bytes + demand.step_bytes + plan.max_model_len * demand.context_bytes
        + plan.num_pages * demand.page_bytes
    )  # fmt: skip


def refused(wanted: Wish, free: int, demand: Demand = DEMAND) -> str:
    with pytest.raises(MemoryPlanError) as caught:
        plan_memory(demand, wanted, free)
    return str(caught.value)


def number_behind(words: str, sentence: str) -> int:
    return int(re.search(rf"{words} to (\d+)", sentence)[1])


def test_pages_fill_the_share_up_to_a_cap() -> None:
    assert total(plan_memory(DEMAND, wish(), 5 * GIB)) <= 0.9 * 5 * GIB
    assert plan_memory(DEMAND, wish(), 64 * GIB).num_pages * DEMAND.page_bytes == CPU_KV_CAP
    # A device of its own has no cap.
    uncapped = plan_memory(DEMAND, wish(kv_cap_bytes=None), 64 * GIB)
    assert 0.899 * 64 * GIB < total(uncapped) <= 0.9 * 64 * GIB
    assert plan_memory(DEMAND, wish(max_model_len=160, max_num_seqs=3), 64 * GIB).num_pages == 30
    # One whole sequence may pass the cap.
    assert plan_memory(DEMAND, wish(max_model_len=131072), 64 * GIB).num_pages == 8192


def test_too_little_memory_names_the_length_that_would_fit() -> None:
    sentence = refused(wish(max_model_len=131072), 5 * GIB)
    assert sentence.startswith("model needs 2.0 GiB of weights")
    assert "one sequence of 131072 tokens, but only 4.5 GiB are free" in sentence
    assert sentence.endswith("or raise gpu_memory_utilization above 0.90")
    length = number_behind("max_model_len", sentence)
    assert plan_memory(DEMAND, wish(max_model_len=length), 5 * GIB).max_model_len == length
    refused(wish(max_model_len=length + 16), 5 * GIB)


def test_auto_takes_the_longest_length_that_fits() -> None:
    plan = plan_memory(DEMAND, wish(max_model_len=131072, shrink_to_fit=True), 5 * GIB)
    assert plan.max_model_len == number_behind("max_model_len", refused(wish(max_model_len=131072), 5 * GIB))
    assert plan_memory(DEMAND, wish(shrink_to_fit=True), 64 * GIB).max_model_len == 8192
    assert plan_memory(DEMAND, wish(shrink_to_fit=True, num_pages=3), 64 * GIB).max_model_len == 48


def test_too_little_memory_for_a_step_names_the_step_that_would_fit() -> None:
    free = int(2.4 * GIB / 0.9)
    tokens = number_behind("max_num_batched_tokens", refused(wish(), free))
    assert 0 < tokens < 4096
    assert "weights" in refused(wish(), GIB)
    assert "free some memory" in refused(wish(), GIB)
    # More of the device is offered where it would do.
    assert "gpu_memory_utilization" not in refused(wish(), GIB)
    assert refused(wish(), int(2.6 * GIB)).endswith("or raise gpu_memory_utilization above 0.90")


def test_an_explicit_size_must_hold_one_sequence_and_fit() -> None:
    assert plan_memory(DEMAND, wish(num_pages=600), 8 * GIB).num_pages == 600
    assert plan_memory(DEMAND, wish(kv_cache_memory_bytes=GIB), 8 * GIB).num_pages == 1024
    assert plan_memory(DEMAND, wish(kv_cache_memory_bytes=1, num_pages=600), 8 * GIB).num_pages == 600
    small = refused(wish(num_pages=100), 8 * GIB)
    assert number_behind("set num_pages", small) == 512
    assert number_behind("max_model_len", small) == 1600
    small = refused(wish(kv_cache_memory_bytes=100 << 20), 8 * GIB)
    least = number_behind("set kv_cache_memory_bytes", small)
    assert plan_memory(DEMAND, wish(kv_cache_memory_bytes=least), 8 * GIB).num_pages == 512
    large = refused(wish(kv_cache_memory_bytes=100 * GIB), 8 * GIB)
    most = number_behind("set kv_cache_memory_bytes", large)
    assert total(plan_memory(DEMAND, wish(kv_cache_memory_bytes=most), 8 * GIB)) <= 8 * GIB


def test_whatever_is_planned_fits_and_holds_a_sequence() -> None:
    seed = 4
    print("seed", seed)
    draw = random.Random(seed)
    planned = 0
    for _ in range(3000):
        demand = Demand(
            weight_bytes=draw.randrange(1, 8 * GIB),
            token_bytes=draw.randrange(1, 1 << 20),
            max_num_batched_tokens=draw.choice([1, 512, 8192]),
            logits_bytes=draw.randrange(GIB),
            context_bytes=draw.randrange(4096),
            page_bytes=draw.randrange(1, 1 << 24),
            page_size=draw.choice([1, 4, 16, 1024]),
        )
        wanted = wish(
            max_model_len=draw.choice([1, 100, 8192, 131072]),
            shrink_to_fit=draw.random() < 0.5,
            gpu_memory_utilization=draw.choice([0.01, 0.5, 0.9, 1.0]),
            num_pages=draw.choice([None, None, draw.randrange(1, 10_000)]),
            kv_cache_memory_bytes=draw.choice([None, None, draw.randrange(1, 8 * GIB)]),
        )
        free = draw.randrange(32 * GIB)
        try:
            plan = plan_memory(demand, wanted, free)
        except MemoryPlanError:
            continue
        planned += 1
        assert total(plan) <= free
        assert 1 <= plan.max_model_len <= wanted.max_model_len
        assert plan.num_pages * demand.page_size >= plan.max_model_len
        assert plan.max_model_len == wanted.max_model_len or wanted.shrink_to_fit
    assert planned > 500


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"max_model_len": 129},
            CheckpointError,
            "max_model_len is 129, but the checkpoint was made for 128",
        ),
        ({"num_pages": 7}, MemoryPlanError, "one sequence of 128 tokens needs 8: set num_pages to 8 or more"),
        ({"max_num_seqs": 70_000}, MemoryPlanError, "max_num_seqs is 70000, but at most 65536"),
        ({"max_num_batched_tokens": 1 << 40}, MemoryPlanError, "set max_num_batched_tokens to"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, options: dict[str, int], error: type[Exception], words: str
) -> None:
    path = tiny_checkpoint.write(tmp_path)
    with pytest.raises(error, match=words):
        make_runner(WorkerOptions(path, num_threads=1, **options))


def test_the_plan_is_told_before_anything_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gllm")
    runner = make_runner(WorkerOptions(tiny_checkpoint.write(tmp_path), num_threads=1, max_num_seqs=2))
    runner.slots.check()
    lines = [record.getMessage() for record in caplog.records]
    first, last = (
        next(i for i, line in enumerate(lines) if word in line) for word in ("memory plan", "GB/s")
    )
    assert first < last
    assert any("16 pages of 16 tokens, 256 tokens, 2.0 sequences of 128" in line for line in lines)


# ---- the host -----------------------------------------------------------------------------------


def fake_host(root: Path, cgroup_line: str, files: dict[str, str]) -> tuple[Path, Path]:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 100000 kB\nMemAvailable:   80000 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup_line + "\n")
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "cgroup").mkdir(exist_ok=True)
    return root / "proc", root / "cgroup"


def test_free_memory_is_what_the_machine_has_where_no_group_limits_it(tmp_path: Path) -> None:
    where = fake_host(tmp_path, "0::/a", {"a/memory.max": "max\n", "a/memory.current": "5\n"})
    assert host.free_memory(*where) == 80000 * 1024


def test_free_memory_respects_every_group_above_and_counts_the_cache_as_free(tmp_path: Path) -> None:
    where = fake_host(
        tmp_path,
        "0::/a/b",
        {
            "a/memory.max": "3000000\n", "a/memory.current": "1000000\n",
            "a/memory.stat": "anon 7\ninactive_file 500\n",
            "a/b/memory.max": "max\n", "a/b/memory.current": "900000\n",
        },
    )  # fmt: skip
    assert host.free_memory(*where) == 2_000_500


def test_free_memory_respects_version_1_and_paths_that_a_container_does_not_see(tmp_path: Path) -> None:
    where = fake_host(
        tmp_path,
        "4:cpu,memory:/docker/abc",
        {"memory/memory.limit_in_bytes": "7000\n", "memory/memory.usage_in_bytes": "9000\n"},
    )
    assert host.free_memory(*where) == 0


def test_cores_are_at_most_the_quota(tmp_path: Path) -> None:
    one = fake_host(tmp_path / "v2", "0::/", {"cpu.max": "50000 100000\n"})
    assert host.usable_cores(*one) == 1
    unlimited = fake_host(tmp_path / "no", "0::/", {"cpu.max": "max 100000\n"})
    first = fake_host(
        tmp_path / "v1", "2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    )
    assert host.usable_cores(*unlimited) == host.usable_cores(*first) >= 1
