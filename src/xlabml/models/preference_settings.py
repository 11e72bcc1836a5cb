"""What a classifier is told of preferences, checked before its network is built."""

from collections.abc import Callable

from xlabml.errors import SettingsError
from xlabml.heads import PREFERENCES, Ties


def check_preference(
    preference: str | None,
    task: str,
    classes: list[str] | None,
    ties: Callable[[], Ties] | None,
    second_pass: float,
    blend: str | None,
) -> None:
    """See that what is said of preferences goes together; arguments as in Classifier.

    Raises:
        SettingsError: It does not.
    """
    if preference not in (None, 'none', 'together', 'apart'):
        raise SettingsError(f'model.preference is {preference!r}; choose one of none, together, apart')
    if ties is not None and preference != 'apart':
        raise SettingsError(
            f'model.ties goes with preferences that are read apart, but model.preference is {preference or "none"}; '
            'leave it out, or set data.examples.together to false'
        )
    if not 0 < second_pass <= 1:
        raise SettingsError(f'model.second_pass is {second_pass}; give a ratio above 0, at most 1')
    if second_pass < 1 and preference != 'together':
        raise SettingsError(
            'model.second_pass goes with preferences that are read together, but model.preference is '
            f'{preference or "none"}; leave it out'
        )
    if preference in (None, 'none'):
        return
    if blend is not None and second_pass < 1:
        raise SettingsError(
            f'model.second_pass is {second_pass}, but with model.blend {blend} both orders are read of all; leave one '
            'of the two out'
        )
    if task != 'single-label' or tuple(classes or ()) != PREFERENCES:
        raise SettingsError(
            f'model.task is {task} and model.classes are {", ".join(classes or ()) or "none"}, but preferences are '
            f'single-label with the classes {", ".join(PREFERENCES)}; leave both out'
        )
