"""What is recorded of a run of 60 steps, and how two records of it differ.

A record is plain values that JSON can hold. Figures are kept as they were written, tensors as hashes of their bits.
"""

import hashlib
import json
from collections import Counter

import torch
from batch_hashes import read_hashes


def read_run(folder):
    """A run's record: plain values that JSON can hold."""
    (version,) = folder.glob('logs/version_*')
    newest = max(version.glob('checkpoints/*.ckpt'))
    checkpoint = torch.load(newest, map_location='cpu', weights_only=True)
    return {
        'made_with': {'torch': torch.__version__, 'cpu': torch.backends.cpu.get_cpu_capability()},
        'batches': _read_batches(folder),
        'steps': _read_figures(version / 'log.jsonl'),
        'validations': _read_figures(version / 'eval.jsonl'),
        'tensors': hash_tensors(checkpoint),
    }


def _read_batches(folder):
    lines, counts = [], Counter()
    for line in read_hashes(folder):
        of = f'{line.pop("rank")} {line.pop("split")} batch'
        lines.append({'of': f'{of} {counts[of, line["step"]]}', **line})
        counts[of, line['step']] += 1
    return lines


def _read_figures(path):
    timed = ('time', 'memory/', 'mfu', 'tokens_per_second', 'tflops')
    rows = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows]


def hash_tensors(checkpoint):
    """Every tensor of a checkpoint but the tokenizer, as hashes.

    Weights have their names without the head's prefix, the optimizer's state its position. What else is there (the
    norms that clipping remembers, weights beside their mean) may move to another place: it is a sorted list.
    """
    weights = {name.partition('.')[2]: hash_tensor(tensor) for name, tensor in checkpoint['state_dict'].items()}
    (optimizer,) = checkpoint['optimizer_states']
    states = {
        f'{position} {name}': value for position, state in optimizer['state'].items() for name, value in state.items()
    }
    known = ('state_dict', 'optimizer_states')
    others = list(_find_tensors([value for name, value in checkpoint.items() if name not in known]))
    return {
        **{f'weight {name}': weights[name] for name in sorted(weights)},
        **{f'optimizer {name}': hash_tensor(value) for name, value in states.items()},
        'others': sorted(hash_tensor(tensor) for tensor in others if tensor.is_floating_point()),
    }


def _find_tensors(values):
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _find_tensors(value)


def hash_tensor(tensor):
    """A short hash of the shape, the type and the bits of a tensor."""
    tensor = torch.as_tensor(tensor).detach().contiguous()
    digest = hashlib.sha256(f'{tensor.dtype} {list(tensor.shape)}'.encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


# The comparison


def differences(then, now):
    """All differences of two records, the first one first, as (step, kind, figure, value then, value now).

    What only the new one has, a figure that is new for example, is none.
    """
    found = []
    for kind, parts in enumerate(('batches', 'steps', 'validations')):
        pairs = [{(row['step'], row.get('of', '')): row for row in record[parts]} for record in (then, now)]
        for key in pairs[0].keys() | pairs[1].keys():
            rows = [pair.get(key) for pair in pairs]
            if None in rows:
                found.append((key[0], kind, f'{parts} {key[1]}', *('there' if row else 'not there' for row in rows)))
                continue
            for name, value in rows[0].items():
                if value != rows[1].get(name):
                    found.append((key[0], kind, f'{key[1]} {name}'.strip(), value, rows[1].get(name)))
    last = max((row['step'] for row in then['steps']), default=0)
    tensors = then['tensors'], now['tensors']
    for name in {**tensors[0], **tensors[1]}:
        values = [found_there.get(name) for found_there in tensors]
        if values[0] != values[1]:
            found.append((last, 3, f'checkpoint, {name}', *values))
    return sorted(found, key=lambda difference: difference[:3])


def describe(found):
    """The first difference in a line, and how many there are."""
    if not found:
        return 'the same'
    step, _, figure, value, now = found[0]
    return f'step {step}, {figure}: {value} then, {now} now (the first of {len(found)} differences)'
