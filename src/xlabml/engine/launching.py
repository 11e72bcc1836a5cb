"""The processes of a run on several devices: those that torchrun has started, and those that Lightning starts."""

import contextlib
import os
import subprocess
import threading
from typing import Any

import lightning.pytorch as L


def started_by_torchrun(devices: Any, num_nodes: int) -> dict[str, int]:
    """How many devices and machines torchrun has started processes for, where the settings leave that open."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return {}
    here = int(os.environ['LOCAL_WORLD_SIZE'])
    everywhere = int(os.environ['WORLD_SIZE'])
    found = {'devices': here} if devices == 'auto' else {}
    return {**found, 'num_nodes': everywhere // here} if num_nodes == 1 else found


def wait_for_children(trainer: L.Trainer) -> None:
    """Let the processes that this one has started for other devices end first.

    Lightning's observer kills a parent whose child ends with a status other than 0; it is told of no children here, so
    that the parent can end with the same status.
    """
    children = getattr(trainer.strategy.launcher, 'procs', None) or []
    for thread in threading.enumerate():
        if children and thread.name == 'child-process-observer':
            thread._child_processes = []  # type: ignore[attr-defined]
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=60)
