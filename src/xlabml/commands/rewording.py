"""jsonargparse's messages, which list types and namespaces, in words for whoever typed a setting."""

import re

UNKNOWN_SETTING = re.compile(r'there is no setting ([\w.]+)')
_MOST_VALUE = 60
_OF_TYPES = ('Expected a <', 'Expected a typ', 'Not a valid subclass')
_UNION = re.compile(
    r'Does not validate against any of the Union subtypes\s*Subtypes: .*?\s*Errors:\s*(?P<errors>.*?)\s*'
    r'(?:Given value type: \S.*?Given value: (?P<value>.*)|$)'
)
_KEYS = re.compile(r'(?:Parser key "[^"]+"(?: element \d+)?:\s*)+')
_WITHIN = re.compile(r'^([\w.]+): there is no setting ([\w.]+)(?:; did you mean ([^?]+)\?)?')
_EXPECTED = re.compile(r'Expected an? (\S.*?)(?:\. Got value: (.*))?$')
_TYPES = {
    "<class 'int'>": 'a whole number',
    "<class 'float'>": 'a number',
    "<class 'bool'>": 'true or false',
    "<class 'str'>": 'text',
    "<class 'NoneType'>": 'null',
    "<class 'list'>": 'a list',
    "<class 'dict'>": 'settings',
}


def in_words(message: str) -> str:
    """The message without what nobody typed: of a union of types, what is wrong with the one that was meant.

    Where a setting takes a class, a list of classes or null, jsonargparse reports why each of these fails. That the
    value is no list or null is known to whoever typed a class.
    """
    message = re.sub(r'\s*\\n\s*|\s*\n\s*', ' ', message)
    where = _KEYS.match(message)
    rest = message if where is None else message[where.end() :]
    rest = re.sub(r'- Expected a path but .*? either not accessible or invalid\s*-\s*', '', rest)
    rest = re.sub(r"Problem with given class_path '([^']*)':\s*", '', rest)
    rest = re.sub(r'(Not a valid subclass of \w+)\b.*?\(implicit class_path\)', r'\1', rest)
    for _ in range(rest.count('Union subtypes')):
        rest = _UNION.sub(_members, rest, count=1)
    rest = re.sub(r'Expected a dot import path string: (\S+)', r'there is no class \1', rest)
    rest = _EXPECTED.sub(_expectation, rest)
    rest = re.sub(r'(?:;\s*)?Not a valid subclass of (\w+)\b.*', _no_subclass, rest)
    rest = re.sub(r'[.;]? ?Got value: Namespace\(.*', '', rest)
    rest = re.sub(r'\s*Given value(?: type)?: .*', '', rest)
    rest = re.sub(r"Option '([^']+)' is not accepted", r'there is no setting \1', rest)
    if where is None:
        return rest
    names = '.'.join(re.findall(r'Parser key "([^"]+)"', where[0]))
    message = re.sub(r'^([\w.]+): ([a-z_]\w*(?:\.\w+)*): ', r'\1.\2: ', f'{names}: {rest}')
    return _WITHIN.sub(_in_full, message)


def _in_full(found: re.Match[str]) -> str:
    """A setting that a class does not take, by the whole name that is typed."""
    prefix, name, near = found.groups()
    meant = '' if near is None else f'; did you mean {" or ".join(f"{prefix}.{one}" for one in near.split(" or "))}?'
    return f'there is no setting {prefix}.{name}{meant}'


def _members(found: re.Match[str]) -> str:
    errors = [error.strip() for error in re.split(r'(?:^|\s)- ', found['errors']) if error.strip()]
    kept = [error for error in errors if not error.startswith(_OF_TYPES)]
    if kept:
        is_unknown = 'Expected a dot import' in kept[0]
        names = [
            _type(error.removeprefix('Expected a ')) for error in errors if is_unknown and 'typing.Literal' in error
        ]
        return '; '.join(dict.fromkeys([*kept, *(f'it can be {some} too' for some in names[:1])]))
    wanted = ' or '.join(dict.fromkeys(_type(error.removeprefix('Expected a ')) for error in errors))
    value = found['value'] or ''
    return _wanted(value, wanted)


def _expectation(found: re.Match[str]) -> str:
    value = found[2] or ''
    wanted = _type(found[1])
    return _wanted(value, wanted)


def _wanted(value: str, wanted: str) -> str:
    if len(value) > _MOST_VALUE:
        value = f'{value[:_MOST_VALUE]}…'
    return f'it is {value}, and must be {wanted}' if value else f'it must be {wanted}'


def _type(text: str) -> str:
    """A type as whoever types a value calls it."""
    text = text.strip().rstrip('.')
    if literal := re.fullmatch(r'typing\.Literal\[(.*)\]', text):
        return literal[1].replace("'", '').replace(', ', ' or ')
    return _TYPES.get(text, re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r'a \1', re.sub(r'[\w.]+\.(\w+)', r'\1', text)))


def _no_subclass(found: re.Match[str]) -> str:
    return '' if found[0].startswith(';') else f'it must be the name of a {found[1]}'
