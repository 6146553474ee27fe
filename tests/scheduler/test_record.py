"""What a recording does to the disk, and what it never does to the service."""

import errno
import logging
import os
import time
from pathlib import Path

import pytest
from recordings import events_of, record_run, recorded_into

from gllm.config import ObservabilityConfig
from gllm.process import StartError
from gllm.protocol.messages import StepResult, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler import journal as journal_module
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.journal import Journal
from gllm.scheduler.policy import Fcfs
from gllm.scheduler.record import Recorder, recorded
from gllm.scheduler.recording import (
    Committed,
    End,
    Part,
    Planning,
    RecordingError,
    Submitted,
    frame,
    open_recording,
)
from gllm.scheduler.replay import Replay


def make_core() -> Scheduler:
    return Scheduler(Limits(4, 16, 99, 999, 2, True), Fcfs(), WorkerReady(1, 20, 4, 4, 16, 40, 50))


def options(file: Path) -> ObservabilityConfig:
    return ObservabilityConfig(record_file=str(file))


def test_only_its_owner_may_read_a_recording(file: Path) -> None:
    record_run(file, 3)
    assert file.stat().st_mode & 0o777 == 0o600


def test_parts_are_bounded_and_each_can_be_replayed_by_itself(file: Path) -> None:
    core = record_run(file, 200, max_bytes=12_000, max_files=3, cancel_share=0.2)
    files = sorted(file.parent.iterdir())
    assert [path.name for path in files] == ["run.glr", "run.glr.1", "run.glr.2"]
    numbers = []
    for path in files:
        assert path.stat().st_size < 15_000
        begin, _ = events_of(path)
        numbers.append(begin.part)
        run = Replay([Part.open(path)])
        run.run()
        assert run.num_plans > 0
    assert numbers == [numbers[0], numbers[0] - 1, numbers[0] - 2]
    assert numbers[2] > 0
    run = Replay(open_recording(file))
    run.run()
    assert run.core.num_steps == core.num_steps
    assert run.num_plans == core.num_steps - Part.open(files[2]).begin.state.num_steps


def test_a_part_grows_beyond_its_bound_rather_than_consist_of_state(file: Path) -> None:
    record_run(file, 60, max_bytes=1, max_files=1000)
    parts = open_recording(file)
    assert len(parts) > 10
    for part in parts[:-1]:
        assert part.path.stat().st_size >= 2 * len(frame(part.begin))


def test_an_earlier_recording_is_kept_and_not_taken_for_a_part(file: Path) -> None:
    record_run(file, 5, seed=1)
    first = file.read_bytes()
    record_run(file, 5, seed=2)
    assert file.with_name("run.glr.1").read_bytes() == first
    assert len(open_recording(file)) == 1


def test_nothing_but_a_recording_is_ever_replaced(file: Path) -> None:
    file.write_text("a letter\n")
    with pytest.raises(RecordingError, match=r"run\.glr exists and is no recording: choose another name"):
        Journal(file, 1000, 1)
    with pytest.raises(StartError, match="exists and is no recording"), recorded(make_core(), options(file)):
        pass
    assert file.read_text() == "a letter\n"
    file.unlink()
    record_run(file, 3)
    file.with_name("run.glr.1").write_text("another letter\n")
    with pytest.raises(RecordingError, match=r"run\.glr\.1 exists and is no recording"):
        Journal(file, 1000, 1)
    with pytest.raises(RecordingError, match="is no file"):
        Journal(file.parent, 1000, 1)


def test_what_cannot_be_written_is_said_at_the_start(file: Path) -> None:
    missing = options(file.parent / "missing" / "run.glr")
    sentence = r"cannot record into .*missing/run\.glr: No such file or directory"
    with pytest.raises(StartError, match=sentence), recorded(make_core(), missing):
        pass


def test_two_processes_cannot_record_into_one_file(file: Path) -> None:
    journal = Journal(file, 1000, 4)
    with pytest.raises(RecordingError, match="another process records into"):
        Journal(file, 1000, 4)
    journal.close()
    Journal(file, 1000, 4).close()


def test_without_the_option_the_core_itself_is_used() -> None:
    core = make_core()
    with recorded(core, ObservabilityConfig()) as used:
        assert used is core


def test_what_happened_reaches_the_file_although_nothing_more_happens(file: Path) -> None:
    run = recorded_into(file, constrained_share=0.0)
    run.submit()
    until = time.monotonic() + 60
    while not (file.stat().st_size and events_of(file)[1]):
        assert time.monotonic() < until
        time.sleep(0.02)
    (event,) = events_of(file)[1]
    assert isinstance(event, Submitted)
    run.core.close()


def test_a_full_disk_ends_the_recording_and_not_the_service(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_module, "FLUSH_S", 0.001)
    run = recorded_into(file)
    journal = run.core._journal
    run.serve(5)

    class FullDisk:
        def write(self, _data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            pass

    until = time.monotonic() + 60
    while not file.stat().st_size:
        assert time.monotonic() < until
        time.sleep(0.01)
    real = journal._file
    with caplog.at_level(logging.ERROR):
        monkeypatch.setattr(journal, "_file", FullDisk())
        while not journal.has_stopped:
            assert time.monotonic() < until
            run.serve(5)
            time.sleep(0.01)
        run.serve(20)
    run.core.close()
    real.close()
    assert run.core.core.num_steps > 20
    assert not run.core.core.running
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: the recording stops here, serving goes on: No space left on device"
    ]
    Replay([Part.open(file)]).run()


def test_a_disk_that_cannot_keep_up_ends_the_recording(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_module, "FLUSH_S", 60.0)
    monkeypatch.setattr(journal_module, "MAX_QUEUED_BYTES", 5_000)
    run = recorded_into(file)
    run.serve(40)
    run.core.close()
    assert "bytes behind" in caplog.text
    assert len(caplog.records) == 1


def test_the_last_word_says_why_the_process_ended(file: Path) -> None:
    with recorded(make_core(), options(file)) as core:
        core.plan(0.0)
    assert events_of(file)[1] == [End("")]  # and a plan of nothing is not worth a frame
    result = StepResult(1, 7, column(), 0, 0, 0)
    with pytest.raises(ValueError, match="not the oldest plan"), recorded(make_core(), options(file)) as core:
        core.commit(result, 1.0)
    events = events_of(file)[1]
    assert events[0] == Committed(1.0, result)
    assert isinstance(events[1], End)
    assert events[1].sentence.startswith("ValueError: a result of step 7 came")


def test_an_input_at_which_the_core_fails_is_in_the_recording(file: Path) -> None:
    core = make_core()
    recorder = Recorder(core, Journal(file, 10_000, 2), lambda: 0.0)
    core.running._sequences.append(None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        recorder.plan(2.5)
    recorder.close("AttributeError")
    assert events_of(file)[1] == [Planning(2.5), End("AttributeError")]


def test_a_frame_that_cannot_be_written_ends_the_recording_only(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = recorded_into(file)
    monkeypatch.setattr("gllm.scheduler.recording.MAX_FRAME_BYTES", 50)
    run.serve(10)
    run.core.close()
    assert len(caplog.records) == 1
    assert run.core.core.num_steps > 0
    monkeypatch.undo()
    assert events_of(file)[1] == []
