"""Install from a folder of wheels what this Python lacks, into a folder of its own: nothing is fetched.

What is there stays as it is, unless pyproject.toml does not take its version: torch and what came with it above all.
"""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


def normal(name: str) -> str:
    """A distribution's name as all its spellings have it."""
    return re.sub('[-_.]+', '-', name).lower()


class Range(NamedTuple):
    """Versions that pyproject.toml takes.

    Args:
        lowest: The first.
        end: The first that is too new; (): none is.
    """

    lowest: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


ANY = Range()


def ranges() -> dict[str, Range]:
    """Of each dependency."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    found = {}
    for line in project['dependencies']:
        if match := re.match(r'([\w.-]+)(?:\[.*?\])?>=([\d.]+)(?:,<([\d.]+))?', line):
            found[normal(match[1])] = Range(_numbers(match[2]), _numbers(match[3] or ''))
    return found


def lacks(name: str, taken: Range = ANY) -> bool:
    """Whether a distribution is not there, or not in a version that is taken."""
    try:
        version = _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return True
    return version < taken.lowest or bool(taken.end and version >= taken.end)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r'\d+', version.partition('+')[0])[:3])


def name_package(target: Path) -> None:
    """Say in a folder which version of our own package runs, which is not installed, only found."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    folder = target / f'{project["name"]}-{project["version"]}.dist-info'
    folder.mkdir(parents=True, exist_ok=True)
    lines = 'Metadata-Version: 2.1', f'Name: {project["name"]}', f'Version: {project["version"]}', ''
    (folder / 'METADATA').write_text('\n'.join(lines), encoding='utf-8')


def main() -> int:
    wheels, target = Path(sys.argv[1]), Path(sys.argv[2])
    if lacks('xlabml'):
        name_package(target)
    taken, found = ranges(), sorted(wheels.glob('*.whl'))
    names = {path: normal(path.name.partition('-')[0]) for path in found}
    chosen = [path for path, name in names.items() if lacks(name, taken.get(name, ANY))]
    print(f'{len(chosen)} of {len(found)} wheels in {wheels} are missing here, and installed:', flush=True)
    print(' ', ', '.join('-'.join(path.name.split('-')[:2]) for path in chosen) or 'none', flush=True)
    if not chosen:
        return 0
    options = ['--quiet', '--no-index', '--no-deps', '--no-cache-dir', '--no-compile', '--disable-pip-version-check']
    words = ['install', *options, '--root-user-action=ignore', '--target', str(target), *map(str, chosen)]
    return subprocess.run([sys.executable, '-m', 'pip', *words], check=False).returncode


if __name__ == '__main__':
    sys.exit(main())
