"""Part 1: what the machine can do at best, by the ceilings that the other parts divide by."""

from bench.device.machine import Machine


def run(machine: Machine) -> None:
    for name in ("copy", "matmul"):
        machine.ceiling(name)
