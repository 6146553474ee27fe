"""Children for tests of the launcher: run as `python -m stand_ins` with a role and a fault."""

import os
import time

from bench.sleeping_worker import serve as sleep_for_every_plan
from gllm.process import Child, StartError, run_child
from gllm.protocol.messages import Role


def worker(child: Child) -> None:
    match os.environ.get("STAND_IN_FAULT"):
        case "refuses":
            raise StartError("the model is too large: choose a smaller one")
        case "raises":
            raise ZeroDivisionError("one over nothing")
        case "vanishes":
            os._exit(7)
        case "is slow":
            time.sleep(60)
    sleep_for_every_plan(child)


if __name__ == "__main__":
    run_child(Role.WORKER, worker)
