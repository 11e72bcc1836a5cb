"""Parts that many machines tokenize into a folder that they share become the store that one machine makes."""

import hashlib
import itertools
import json
import random

import pytest

from xlabml import settings
from xlabml.data import Document, Location, SharedJob, Source, plan_store, prepare_store
from xlabml.data.store import store_parts
from xlabml.data.store.shared_parts import bytes_of

WORDS = ['the', 'a', 'cat', 'dog', 'été', 'sat', 'on', 'mat', 'ran', 'far', 'away', 'über', '12', 'days']
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 4_000)


@pytest.fixture
def source(tmp_path):
    draw = random.Random(0)
    rows = [{'text': ' '.join(draw.choices(WORDS, k=draw.randrange(40))), 'label': i} for i in range(300)]
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return Location(str(tmp_path / 'a.jsonl'))


@pytest.fixture(params=['memory', 'path'])
def shared(request, tmp_path):
    """A shared folder of its own, as a URL or a path."""
    return f'memory://shared-{next(_numbers)}' if request.param == 'memory' else str(tmp_path / 'shared')


class InTurn:
    """An engine whose tasks run here, one after the other."""

    def __init__(self, shared_folder, n_tasks, killed_after=None):
        self.shared_folder, self.n_tasks, self.killed_after = shared_folder, n_tasks, killed_after
        self.n_encoded = []

    def __call__(self, job, tell):
        shared = SharedJob.named(job, self.shared_folder)
        shared.write(job)
        for rank in range(self.n_tasks):
            if rank == self.killed_after:
                raise KeyboardInterrupt
            self.n_encoded.append(SharedJob(shared.url).encode(rank, self.n_tasks, 1))
        shared.gather(job, job.missing())
        tell(bytes_of(job.parts, shared.there()))
        shared.remove_parts()


def digests(store):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.folder.glob('*.bin'))}


@pytest.mark.parametrize('n_tasks', [1, 3, 50])
def test_the_files_are_those_of_one_machine(source, shared, tokenizer, tmp_path, n_tasks):
    local = [prepare_store(source, tokenizer, tmp_path / f'{n}', ['label'], n_processes=n) for n in (1, 2)]
    engine, told = InTurn(shared, n_tasks), []
    store = prepare_store(
        source, tokenizer, tmp_path / 's', ['label'], engine=engine, report=lambda *what: told.append(what)
    )
    assert digests(store) == digests(local[0]) == digests(local[1])
    assert sum(engine.n_encoded) == len(source.parts()) > 5
    assert store.manifest['invalid'] == local[0].manifest['invalid']
    assert told[-1][1] == told[-1][2]


def test_what_was_done_before_a_kill_is_kept(source, shared, tokenizer, tmp_path):
    whole = prepare_store(source, tokenizer, tmp_path / 'whole')
    first = InTurn(shared, 4, killed_after=2)
    with pytest.raises(KeyboardInterrupt):
        prepare_store(source, tokenizer, tmp_path / 's', engine=first)
    second = InTurn(shared, 2)
    store = prepare_store(source, tokenizer, tmp_path / 's', engine=second)
    assert digests(store) == digests(whole)
    assert sum(first.n_encoded) > 0
    assert sum(second.n_encoded) == len(source.parts()) - sum(first.n_encoded)


def test_half_a_part_is_no_part(source, shared, tokenizer, tmp_path, monkeypatch):
    """A task that is killed while it copies leaves no manifest, and the part is made again."""
    job = plan_store(source, tokenizer)
    there = SharedJob.named(job, shared)
    there.write(job)
    with monkeypatch.context() as patch:
        patch.setattr(type(there._files), 'mv', lambda *_, **__: pytest.fail('killed'))
        with pytest.raises(pytest.fail.Exception):
            there.encode(0, 1, 1)
    assert there.there() == set()
    assert there.encode(0, 1, 1) == len(job.parts)
    assert there.there() == set(range(len(job.parts)))


def test_a_spoilt_part_is_made_again(source, shared, tokenizer, tmp_path):
    job = plan_store(source, tokenizer)
    there = SharedJob.named(job, shared)
    there.write(job)
    there.encode(0, 1, 1)
    there._files.pipe_file(there._at('parts/00001/tokens.bin'), b'spoilt')
    with pytest.raises(ChildProcessError, match=r'part 1 of .* is not in .* as it was written, and was removed there'):
        prepare_store(source, tokenizer, tmp_path / 's', engine=InTurn(shared, 1))
    again = InTurn(shared, 1)
    store = prepare_store(source, tokenizer, tmp_path / 's', engine=again)
    assert again.n_encoded == [1]
    assert digests(store) == digests(prepare_store(source, tokenizer, tmp_path / 'whole'))


def test_other_texts_and_times_have_another_folder(source, shared, tokenizer):
    job = plan_store(source, tokenizer)
    assert SharedJob.named(job, shared).url == SharedJob.named(plan_store(source, tokenizer), shared).url
    path = source.files()[0]
    path.write_text(path.read_text().replace('cat', 'dog'))  # of the same size
    assert SharedJob.named(plan_store(source, tokenizer), shared).url != SharedJob.named(job, shared).url


def test_a_broken_line_is_told_to_who_gathers(source, shared, tokenizer):
    path = source.files()[0]
    lines = path.read_text().splitlines()
    lines[150] = '{"text": broken'
    path.write_text('\n'.join(lines))
    job = plan_store(source, tokenizer)
    there = SharedJob.named(job, shared)
    there.write(job)
    assert there.errors() == []
    with pytest.raises(ValueError, match=r'a\.jsonl:151: not JSON'):
        there.encode(0, 1, 1)
    assert len(there.errors()) == 1
    assert 'a.jsonl:151: not JSON' in there.errors()[0]


def test_a_machine_that_sees_other_files_refuses(source, shared, tokenizer):
    job = plan_store(source, tokenizer)
    there = SharedJob.named(job, shared)
    there.write(job)
    path = source.files()[0]
    path.write_text(path.read_text() + '\n{"text": "late"}')
    with pytest.raises(ValueError, match=r'is not the same here .* let all machines see the same files'):
        there.encode(0, 1, 1)


def test_relative_paths_mean_what_they_meant(source, shared, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = plan_store(Location('a.jsonl'), tokenizer)
    there = SharedJob.named(job, shared)
    there.write(job)
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert there.encode(0, 1, 1) == len(job.parts)


class Forgetful(Source):
    """Keeps its argument under another name."""

    def __init__(self, n):
        self._texts = [f'text {i}' for i in range(n)]

    def documents(self, columns=()):
        yield from (Document(i, text, {}) for i, text in enumerate(self._texts))

    def fingerprint(self):
        return {'n': len(self._texts)}


class Counted(Forgetful):
    """Keeps its argument."""

    def __init__(self, n):
        super().__init__(n)
        self.n = n


def test_a_source_of_ones_own_travels_if_it_keeps_its_arguments(shared, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r'Forgetful cannot be written down for other machines'):
        prepare_store(Forgetful(5), tokenizer, tmp_path / 'a', engine=InTurn(shared, 1))
    settings.trust_class(f'{__name__}.Counted')
    store = prepare_store(Counted(5), tokenizer, tmp_path / 'b', engine=InTurn(shared, 1))
    assert digests(store) == digests(prepare_store(Counted(5), tokenizer, tmp_path / 'c'))


def test_nothing_is_read_where_all_parts_are_here(source, shared, tokenizer, tmp_path, monkeypatch):
    """The driver is killed between gathering and merging: what it has gathered is not asked for again."""
    engine = InTurn(shared, 1)
    with monkeypatch.context() as patch:
        patch.setattr('xlabml.data.store.store_build._merge', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare_store(source, tokenizer, tmp_path / 's', engine=engine)
    monkeypatch.setattr(store_parts, '_encode', lambda *_: pytest.fail('tokenized again'))
    prepare_store(source, tokenizer, tmp_path / 's', engine=lambda job, tell: tell(len(job.missing()))).verify()
