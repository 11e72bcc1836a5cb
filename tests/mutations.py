"""Damaged and hostile files, drawn from a seed: checkpoints, exports, tokenizers, manifests and settings."""

import contextlib
import copy
import json
import math
import random
import struct

import torch
from safetensors.torch import save

from xlabml.artifacts import checksums

CALL = {'class_path': 'os.system', 'init_args': {'command': 'touch pwned'}}
EVIL = {'class_path': 'evil_module.Part'}
VALUES = [
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, -(2**63), 10**7, 10**9, 10**30, 0.5, -1.5, math.nan, math.inf),
    *('', 'x', 'null', 'os.system', 'evil_module.Part', '../../../x', '/etc/passwd', 'pwned.yaml', '\0', 'a' * 5000),
    *('{"class_path": "os.system", "init_args": {"command": "touch pwned"}}', '[evil_module.Part]', '!!python/name:os'),
    *('\ud800', '\x1b[2J', '${oc.env:HOME}', '*a', '&a [*a]', 'http://127.0.0.1:9/x.jsonl', 'reference::http://h/x'),
    *(
        [],
        {},
        [[]],
        [None],
        [1, 2, 3],
        {'a': 1},
        {'class_path': 5},
        {'class_path': ''},
        {'init_args': {}},
        [CALL],
        CALL,
    ),
    *(EVIL, [EVIL], {'class_path': 'subprocess.Popen', 'init_args': {'args': 'touch pwned'}}),
    *(
        {'class_path': name}
        for name in ('torch.nn.Sequential', 'torch.nn.Module', 'xlabml.data.Source', 'xlabml.commands.fit.XLabCLI')
    ),
    {'class_path': 'torch.nn.Linear', 'init_args': {'out_features': 10**9}},
    {'class_path': 'torch.nn.LayerNorm', 'init_args': {'eps': 'x'}},
    {'class_path': 'torch.nn.DataParallel'},
    {'class_path': 'xlabml.transformer.Learned'},
    {'class_path': 'xlabml.data.Location', 'init_args': {'path': 'pwned.jsonl'}},
    {'class_path': 'xlabml.training.AdaptiveClip', 'init_args': {'window_steps': 10**12}},
]
KEYS = [
    'callbacks.class_path',
    'trunk.class_path',
    'class_path',
    'init_args',
    '__path__',
    '_class_path',
    'x' * 3000,
    'callbacks+',
    '',
]


def _tensors():
    return [
        torch.zeros(0),
        torch.zeros(3, dtype=torch.int64),
        torch.full((2, 2), math.nan),
        torch.zeros(1).expand(10**12),
        torch.zeros(5, dtype=torch.uint8),
        torch.zeros((), dtype=torch.complex64),
    ]


def places(value, path=()):
    """All places in nested values: the paths of keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutate_values(values, draw, tensors=True):
    """A copy with one to three places changed, removed, or with a key more."""
    changed = copy.deepcopy(values)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        *path, key = draw.choice(list(places(changed)))
        node = changed
        for name in path:
            node = node[name]
        if isinstance(node, tuple):
            continue
        kind = draw.randrange(6)
        if kind == 0 and isinstance(node, dict):
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[draw.choice(KEYS)] = node.pop(key) if draw.random() < 0.5 else draw.choice([CALL, 'os.system', 1])
        elif kind == 2 and tensors:
            node[key] = draw.choice(_tensors())
        elif kind == 3:
            deep = draw.choice(VALUES)
            for _ in range(draw.choice([1, 5, 60])):
                deep = draw.choice([[deep], {'a': deep}])
            node[key] = deep
        else:
            node[key] = copy.deepcopy(draw.choice(VALUES))
    return changed


def mutate_bytes(content, draw):
    """Cut off, with noise in it, or with bits flipped."""
    kind = draw.randrange(3)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        place = draw.randrange(len(content))
        return content[:place] + draw.randbytes(draw.randint(1, 8)) + content[place + draw.randint(0, 8) :]
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def mutate_checkpoint(content, values, path, draw):
    """A damaged checkpoint, written to a path."""
    if draw.random() < 0.2:
        path.write_bytes(mutate_bytes(content, draw))
        return
    changed = mutate_values(values, draw)
    if draw.random() < 0.1:  # the tokenizer's bytes
        tokenizer = values['XLabDataModule']['tokenizer'].numpy().tobytes()
        damaged = bytearray(mutate_bytes(tokenizer, draw) or b'x')
        changed = {
            **values,
            'XLabDataModule': {**values['XLabDataModule'], 'tokenizer': torch.frombuffer(damaged, dtype=torch.uint8)},
        }
    torch.save(changed, path)


def mutate_export(content, path, draw):
    """A damaged export, written to a path."""
    if draw.random() < 0.3:
        path.write_bytes(mutate_bytes(content, draw))
        return
    (n,) = struct.unpack('<Q', content[:8])
    header = json.loads(content[8 : 8 + n])
    settings = json.loads(header['__metadata__']['xlabml'])
    kind = draw.randrange(4)
    if kind == 0:
        text = draw.choice(['', 'x', '5', '[]', 'null', '[' * 100_000, '{"a": 1e999}', '9' * 5000])
    else:
        text = json.dumps(mutate_values(settings, draw, tensors=False))
    if kind == 1 and draw.random() < 0.5:
        tensors = {'w': torch.zeros(2)}
        path.write_bytes(save(tensors, {'xlabml': text}))
        return
    header['__metadata__']['xlabml'] = text
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(written)) + written + content[8 + n :])
    with contextlib.suppress(Exception):  # whoever means harm writes a checksum too
        checksums.seal_export(path)


def draw_of(kind, seed):
    return random.Random(f'{kind} {seed}')
