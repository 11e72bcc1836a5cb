"""Addresses of texts that only a checkpoint names: said before they are opened, and of a few protocols alone."""

from collections.abc import Iterable

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml.data import Source

_PROTOCOLS = ('http', 'https', 's3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss', 'hf', 'file', 'memory')
"""Of addresses that a checkpoint may name: some others of fsspec unpack archives, or templates that are code."""


def announce_addresses(sources: Iterable[Source], path: str) -> None:
    """Say, before it is opened, which address a checkpoint names as a source.

    Args:
        sources: Those that it names.
        path: The checkpoint.

    Raises:
        ValueError: An address has a protocol that could run code or reach other files.
    """
    for address in (one for source in sources for one in source.addresses()):
        if '::' in address or address.partition('://')[0] not in _PROTOCOLS:
            raise ValueError(
                f'{path} names {address!r:.200} as a source of its data, which is opened only where data.sources '
                f'names it; from a checkpoint alone come {", ".join(_PROTOCOLS)}'
            )
        if getattr(rank_zero_only, 'rank', 0) == 0:
            print(f'reading {address!r:.200}, which {path} names as a source of its data', flush=True)
