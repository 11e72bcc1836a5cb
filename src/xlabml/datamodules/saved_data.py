"""What a checkpoint knows of the data that it was trained on, and how that differs from the data at hand."""

from typing import Any


def find_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the training rows follow from and is not as it was, for people; empty where all of it is.

    Args:
        then: Plain values, as `XLabDataModule.state_dict` writes them: `data` (sources with their fingerprints, how
            many documents each has, settings) and `rows`, a fingerprint of what follows from them.
        now: The same, of today.
    """
    changes = _changed_settings(then['data']['settings'], now['data']['settings'])
    changes += _changed_sources(then['data'], now['data'])
    if not changes and then['rows'] != now['rows']:
        changes.append('this version of xlabml lays the rows out in another way')
    return changes


def _changed_settings(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f'{name} was {value}, is {now.get(name)}' for name, value in then.items() if value != now.get(name)]


def _changed_sources(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if len(then['sources']) != len(now['sources']):
        before, after = (', '.join(name for name, _ in data['sources']) for data in (then, now))
        return [f'data.sources was {before}, is {after}']
    changes = []
    for old, new, n_old, n_new in zip(then['sources'], now['sources'], then['n_documents'], now['n_documents']):
        if old[1] != new[1]:
            what = f'the texts of {new[0]} changed' if old[0] == new[0] else f'{old[0]} became {new[0]}'
            changes.append(f'{what} ({n_old:,} documents then, {n_new:,} now)')
    return changes


def check_changes(then: dict[str, Any], now: dict[str, Any], accept: bool) -> bool:
    """Whether the data changed since.

    Args:
        then: What the checkpoint says.
        now: What is true today.
        accept: Whether a change is allowed.

    Raises:
        ValueError: It did, and that is not allowed; what changed is named.
    """
    changes = find_changes(then, now)
    if changes and not accept:
        raise ValueError(
            f'the data is not what the checkpoint was trained on: {"; ".join(changes)}. Restore it, or accept the '
            'change with --data.accept_changes=true: the run then goes on at the beginning of the new data'
        )
    return bool(changes)
