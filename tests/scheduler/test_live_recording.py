"""The real scheduler process is recorded while it serves, and its recording replays."""

from pathlib import Path

import pytest
from live import record_live

from gllm.replay_command import main
from gllm.scheduler.recording import Cancelled, End, Expired, FrontendLost, Submitted, open_recording
from gllm.scheduler.replay import Replay


def test_a_live_run_replays_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.glr"
    stats, num_cancelled = record_live(file, num_requests=600, max_bytes=64 * 1024, max_files=100)
    assert num_cancelled > 20
    assert stats.num_preemptions > 0
    parts = open_recording(file)
    assert len(parts) > 2
    events = [event for part in parts for event in part.events()]
    assert sum(isinstance(event, Submitted) for event in events) == 600
    assert {Cancelled, Expired, FrontendLost} <= {type(event) for event in events}
    assert events[-1] == End("")
    run = Replay(parts)
    run.run()
    assert run.num_plans == stats.num_steps
    assert run.core.num_preemptions == stats.num_preemptions
    assert main([str(file)]) == 0
    assert f"{stats.num_steps} plans, all plans are equal\n" in capsys.readouterr().out
