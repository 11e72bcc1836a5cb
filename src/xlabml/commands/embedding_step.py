"""The step of datatrove that makes shards of vectors (extra `cluster`); it is imported only where tasks run."""

from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from xlabml import artifacts

from .shard_making import make_shards


class EmbedShards(PipelineStep):
    """What a task runs: it makes its share of the shards.

    Args:
        folder: The shared folder.
        n_threads: Cores of a task.
    """

    type = '🧭 - EMBEDDER'
    name = 'xlabml'

    def __init__(self, folder: str, n_threads: int) -> None:
        super().__init__()
        self.folder = folder
        self.n_threads = n_threads

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> object:
        """Make the shards number rank, rank + world_size …; what goes wrong is left for who gathers, too."""
        folder = Path(self.folder)
        try:
            with self.track_time('task'):
                n_made = make_shards(folder, rank, world_size, self.n_threads)
        except Exception as error:
            message = str(error) if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: {error}'
            (folder / 'errors').mkdir(exist_ok=True)
            artifacts.write_text(folder / 'errors' / f'{rank:05d}', message)
            raise
        self.stat_update('shards', value=n_made, unit='task')
        return data
