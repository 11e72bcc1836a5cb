"""The console scripts. Each guards Ctrl-C before its first import of ours that takes time: nothing has begun then."""

from .quiet import interruptible_imports


def xlab() -> int:
    """`xlab`: train, evaluate, predict, and prepare data; the exit status."""
    with interruptible_imports('xlab'):
        from .fit import main
    return main()


def infer() -> int:
    """`xlab-infer`: use a checkpoint; the exit status."""
    with interruptible_imports('xlab-infer'):
        from .infer import main
    return main()


def manage() -> int:
    """`xlab-manage`: export, convert and describe; the exit status."""
    with interruptible_imports('xlab-manage'):
        from .manage import main
    return main()
