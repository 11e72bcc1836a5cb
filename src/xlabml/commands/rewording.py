"""jsonargparse's messages, which list types and namespaces, in words for whoever typed a setting."""

import re

UNKNOWN_SETTING = re.compile(r'there is no setting ([\w.]+)')
_UNION = re.compile(
    r'Does not validate against any of the Union subtypes\s*Subtypes: .*?\s*Errors:\s*(.*?)\s*'
    r'(?:Given value type: \S.*?Given value: .*|$)',
    re.DOTALL,
)
_KEYS = re.compile(r'(?:Parser key "[^"]+"(?: element \d+)?:\s*)+')
_NO_OPTION = re.compile(r"((?:[\w.]+: )?)Option '([^']+)' is not accepted")


def in_words(message: str) -> str:
    """The message without what nobody typed: of a union of types, what is wrong with the one that was meant.

    Where a setting takes a class, a list of classes or null, jsonargparse reports why each of these fails. That the
    value is no list or null is known to whoever typed a class.
    """
    message = re.sub(r'\s*\\n\s*|\s*\n\s*', ' ', message)
    message = _KEYS.sub(_name, message)
    message = re.sub(r'- Expected a path but .*? either not accessible or invalid\s*-\s*', '', message, flags=re.DOTALL)
    message = re.sub(r"Problem with given class_path '([^']*)':\s*", '', message)
    for _ in range(message.count('Union subtypes')):
        message = _UNION.sub(_members, message, count=1)
    message = re.sub(r'Expected a dot import path string: (\S+)', r'there is no class \1', message)
    message = re.sub(r'[.;]? ?Got value: Namespace\(.*', '', message)
    message = re.sub(r'\s*Given value(?: type)?: .*', '', message)
    return _NO_OPTION.sub(lambda found: f'there is no setting {found[1].replace(": ", ".")}{found[2]}', message)


def _name(found: re.Match[str]) -> str:
    """`Parser key "model": Parser key "optimizer": ` as the name that is typed."""
    return '.'.join(re.findall(r'Parser key "([^"]+)"', found[0])) + ': '


def _members(found: re.Match[str]) -> str:
    errors = re.split(r'(?:^|\s)- ', found[1])
    kept = [error.strip() for error in errors if error.strip() and not error.strip().startswith('Expected a <class')]
    return '; '.join(dict.fromkeys(kept)) or f'it cannot be of this type ({found[1][:80].strip()})'
