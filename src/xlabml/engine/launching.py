"""The processes of a run on several devices, started by torchrun or by Lightning."""

import contextlib
import os
import subprocess
import threading

import lightning.pytorch as L


def started_by_torchrun(devices: object, num_nodes: int) -> dict[str, int]:
    """The numbers of devices and machines for which torchrun started processes, where the settings leave them open."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return {}
    here = int(os.environ['LOCAL_WORLD_SIZE'])
    everywhere = int(os.environ['WORLD_SIZE'])
    found = {'devices': here} if devices == 'auto' else {}
    return {**found, 'num_nodes': everywhere // here} if num_nodes == 1 else found


def wait_for_children(trainer: L.Trainer) -> None:
    """Wait until the processes that this one has started for other devices have ended.

    Lightning's observer kills a parent whose child ends with a status other than 0; its list of children is emptied, so
    that the parent can end with the same status.
    """
    children = getattr(trainer.strategy.launcher, 'procs', None) or []
    for thread in threading.enumerate():
        if children and thread.name == 'child-process-observer':
            thread._child_processes = []  # type: ignore[attr-defined]
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=60)
