"""How the data at hand differs from what a checkpoint was trained on."""

from typing import Any

from xlabml.data import NextTokens
from xlabml.errors import DataError, SettingsError

_EARLIER_EXAMPLES = NextTokens().settings()
"""The examples of a checkpoint that names none, being of an earlier version."""
_WHERE_SET = ('data.group', 'data.stratify', 'data.fold', 'data.sources.only', 'data.sources.in_order', 'data.weights')
"""Settings that a checkpoint has only where they are set."""


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


def _changed_settings(then: dict[str, object], now: dict[str, object]) -> list[str]:
    then = {'data.examples': _EARLIER_EXAMPLES, **then}
    # What only one of them has came with a later version, or with a stream, which is named by itself; but for what is
    # written only where it is set.
    then, now = ({**dict.fromkeys(_WHERE_SET), **settings} for settings in (then, now))
    return [f'{name} was {then[name]}, is {now[name]}' for name in then if then[name] != now.get(name, then[name])]


def _changed_sources(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if len(then['sources']) != len(now['sources']):
        before, after = (', '.join(name for name, _ in data['sources']) for data in (then, now))
        return [f'data.sources was {before}, is {after}']
    unit = now.get('unit', 'documents')
    if unit != then.get('unit', 'documents'):
        return ['data.stream was not set, is set' if unit == 'shards' else 'data.stream was set, is not set']
    changes = []
    for old, new, n_old, n_new in zip(then['sources'], now['sources'], then['n_documents'], now['n_documents']):
        if old[1] != new[1]:
            what = f'the texts of {new[0]} changed' if old[0] == new[0] else f'{old[0]} became {new[0]}'
            changes.append(f'{what} ({n_old:,} {unit} then, {n_new:,} now)')
    return changes


def check_changes(then: dict[str, Any], now: dict[str, Any], accept: bool) -> bool:
    """Whether the data changed since.

    Args:
        then: What the checkpoint says.
        now: What is true today.
        accept: Whether a change is allowed.

    Raises:
        SettingsError: A setting of it did, and that is not allowed; what changed is named.
        DataError: The same, where texts did, or this version of xlabml.
    """
    changes = find_changes(then, now)
    if changes and not accept:
        kind = SettingsError if _changed_settings(then['data']['settings'], now['data']['settings']) else DataError
        raise kind(
            f'the data is not what the checkpoint was trained on: {"; ".join(changes)}. Restore it, or accept the '
            'change with --data.accept_changes=true: the run then resumes at the beginning of the new data'
        )
    return bool(changes)
