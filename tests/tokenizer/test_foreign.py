"""Tokenizers from elsewhere: read as they are, by one interface, with the special tokens by name."""

import json
import pickle
import random
import subprocess
import sys

import foreign
import numpy as np
import pytest
import sentencepiece

from xlabml.tokenizer import Tokenizer
from xlabml.tokenizer.model_file import without_field
from xlabml.tokenizer.round_trips import RoundTrips

TEXTS = [
    'The cat sat.',
    "isn't it  fun?\n",
    ' été ﬁ 世界 \U0001f469\u200d\U0001f467',
    'a\u2581b',
    '<s> [CLS] <|endoftext|>',
    '',
]


@pytest.fixture(scope='module', params=foreign.KINDS)
def path(request, tmp_path_factory):
    return foreign.KINDS[request.param](tmp_path_factory.mktemp('foreign'))


@pytest.fixture(scope='module')
def tokenizer(path):
    return Tokenizer.load(path)


def by_library(path):
    """Encoding and decoding by the library alone."""
    if path.suffix == '.model':
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return processor.encode, processor.decode
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(path / 'tokenizer.json' if path.is_dir() else path))
    library.no_truncation()
    library.no_padding()
    return (
        lambda text: library.encode(text, add_special_tokens=False).ids,
        lambda ids: library.decode(ids, skip_special_tokens=True),
    )


def random_ids(tokenizer, seed, n):
    """Lists of ids, many with whole or broken characters in bytes."""
    draw = random.Random(seed)
    in_bytes = [id for id in range(len(tokenizer)) if tokenizer.is_byte(id)]
    for _ in range(n):
        share = draw.random() if in_bytes else 0
        yield [
            draw.choice(in_bytes) if draw.random() < share else draw.randrange(len(tokenizer))
            for _ in range(draw.randrange(1, 30))
        ]


def test_ids_and_texts_are_those_of_the_library(path, tokenizer):
    encode, decode = by_library(path)
    for text in TEXTS[:4]:
        assert tokenizer.encode(text) == encode(text)
    assert tokenizer.encode(TEXTS[:4], n_threads=2) == [encode(text) for text in TEXTS[:4]]
    for ids in random_ids(tokenizer, seed=1, n=300):
        assert tokenizer.decode(ids) == decode(ids)


def test_a_stream_gives_what_decode_gives_and_never_half_a_character(tokenizer):
    for ids in random_ids(tokenizer, seed=2, n=2_000):
        stream = tokenizer.stream()
        parts = [stream.push(id) for id in ids]
        whole = ''.join(parts)
        assert whole + stream.close() == tokenizer.decode(ids)
    for text in TEXTS:
        stream = tokenizer.stream()
        parts = [stream.push(id) for id in tokenizer.encode(text)]
        assert '\ufffd' not in ''.join([*parts, stream.close()])


def test_a_tokenizer_is_its_bytes(tokenizer, tmp_path):
    (tmp_path / 'packed.model').write_bytes(tokenizer.data)
    for copy in (
        Tokenizer.from_bytes(tokenizer.data),
        Tokenizer.load(tmp_path / 'packed.model'),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert (copy.hash, copy.special_ids, len(copy)) == (tokenizer.hash, tokenizer.special_ids, len(tokenizer))
        assert copy.encode(TEXTS) == tokenizer.encode(TEXTS)


def test_no_text_makes_a_special_token(tokenizer):
    names = [tokenizer.piece(id) for id in tokenizer.reserved_ids]
    ids = tokenizer.encode([*names, *(f'a {name} b' for name in names), *(f'a{name}b' for name in names)])
    made = {id for some in ids for id in some} - {tokenizer.special_ids.get('unk')}
    assert made.isdisjoint(tokenizer.reserved_ids)
    for texts in (names, [name for name in names if not tokenizer.encode(name)], TEXTS):
        flat, lengths = tokenizer.encode_flat(texts, 1)
        expected = tokenizer.encode(texts)
        assert flat.tolist() == [id for some in expected for id in some]
        assert lengths.tolist() == [len(some) for some in expected]


def test_special_tokens_have_names_and_say_nothing(tokenizer):
    assert {'sos', 'eos', 'pad'} <= tokenizer.special_ids.keys()
    for token, role in ((tokenizer.sos_token, 'sos'), (tokenizer.eos_token, 'eos'), (tokenizer.pad_token, 'pad')):
        assert tokenizer[token] == tokenizer.special_ids[role]
        assert tokenizer.decode([tokenizer[token]]) == ''
        assert tokenizer.piece_bytes[tokenizer[token]] == b''
        assert tokenizer[token] in tokenizer.reserved_ids
    with pytest.raises(ValueError, match='has no piece'):
        tokenizer['nothing of the kind']
    for call in (tokenizer.piece, tokenizer.stream().push, lambda id: tokenizer.decode([id])):
        for id in (-1, len(tokenizer)):
            with pytest.raises(ValueError, match=rf'has no id {id}; ids are 0 to'):
                call(id)


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r'text 1 holds a lone surrogate, U\+D800, at character 1'):
        tokenizer.encode(['fine', 'a\ud800'])


def test_bytes_of_tokens_are_those_that_they_add_to_a_text(tokenizer):
    table = tokenizer.piece_bytes
    assert len(table) == len(tokenizer)
    for text in ('thecat', 'the dog ran'):
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids) == text:
            said = b''.join(table[id] for id in ids)
            assert said.replace(b' ', b'') == text.replace(' ', '').encode()  # where spaces are is the decoder's


def test_what_comes_back_is_known(tokenizer):
    long = 'The Quick brown fox jumps over the lazy dog, '.lower() * 40
    draw = random.Random(3)
    letters = [*"the catTHE  .,'n", '\u2047', '\u2581', '\ufffd', '\u00e9', '\ufb01', '\u4e16', '\0', '\n', '\u00a0']
    texts = [
        *TEXTS,
        long,
        long.upper(),
        long + '\u2581',
        'a b',
        "i do not . they 're",
        *tokenizer.decode([[id] for id in draw.sample(range(len(tokenizer)), min(300, len(tokenizer)))]),
        *(''.join(draw.choices(letters, k=draw.randrange(1, 9))) for _ in range(1_000)),
    ]
    ids, lengths = tokenizer.encode_flat(texts, 1)
    expected = [tokenizer.decode(some) == text for text, some in zip(texts, tokenizer.encode(texts))]
    assert tokenizer.round_trips.come_back(texts, ids, lengths).tolist() == expected
    assert any(expected)


@pytest.mark.parametrize('lead', [b'', b' '])
@pytest.mark.parametrize('has_data', [True, False])
def test_tokens_of_any_length_are_compared_byte_for_byte(lead, has_data):
    draw = random.Random(5)
    pieces = [b' ', b'', b'a', b'b', b'\0', 'é'.encode(), b'a' * 31, b'ab' * 16, b'ba' * 40, b'b' * 33]
    counts = [20_000, *draw.choices([0, 1, 3, 200], k=300), 0]
    ids = [[0] * len(lead) + draw.choices(range(len(pieces)), k=count) for count in counts]
    spelled = [b''.join(map(pieces.__getitem__, some)).decode() for some in ids]
    texts = [text[len(lead) :] for text in spelled]
    for i in range(0, len(texts), 3):  # one character is another, or is missing
        at = draw.randrange(len(texts[i]) + 1)
        texts[i] = texts[i][:at] + ('x' if i % 2 else '') + texts[i][at + 1 :]
    sizes = np.array(list(map(len, pieces)))
    round_trips = RoundTrips(pieces, sizes, lead, None, lambda ids: 'never')
    data = [text.encode() for text in texts] if has_data else None
    found = round_trips.come_back(texts, np.concatenate(ids).astype(np.int32), np.array(list(map(len, ids))), data)
    assert found.tolist() == [lead.decode() + text == whole for text, whole in zip(texts, spelled)]
    assert 150 < found.sum() < 300


def test_what_cannot_be_said_is_not_decoded(tmp_path):
    tokenizer = Tokenizer.load(foreign.word_piece(tmp_path / 'a.json'))
    decoded = []
    tokenizer.round_trips._decode = lambda ids: decoded.append(ids) or ''
    texts = ['the cat', 'The cat', 'the\ncat']
    assert tokenizer.round_trips.come_back(texts, *tokenizer.encode_flat(texts, 1)).tolist() == [True, False, False]
    assert decoded == []


@pytest.mark.parametrize('has_table', [True, False])
def test_characters_are_not_known_where_a_model_rewrites_what_it_decodes(tmp_path, has_table):
    options = {}
    if has_table:
        (tmp_path / 'rules.tsv').write_text('61\t41\n')
        options = {'denormalization_rule_tsv': str(tmp_path / 'rules.tsv')}
    path = foreign.sentence_piece(tmp_path / 'a.model', **options)
    tokenizer = Tokenizer.load(path)
    texts = ['cat', 'cAt', 'cBt', 'dog']
    back = [tokenizer.decode(tokenizer.encode(text)) == text for text in texts]
    assert tokenizer.round_trips.come_back(texts, *tokenizer.encode_flat(texts, 1)).tolist() == back
    assert (tokenizer._alphabet is None) == has_table


@pytest.mark.parametrize(
    ('kind', 'special', 'lost', 'kept'),
    [
        ('mistral', {'unk': 0, 'sos': 1, 'eos': 2, 'pad': 2}, ['U+2581'], ['upper case', 'accents', 'know']),
        ('byte_level', {'sos': 0, 'eos': 0, 'pad': 0}, [], ['a']),
        ('byte_level_prefix', {'sos': 0, 'eos': 0, 'pad': 0}, ['before every text'], ['upper']),
        (
            'word_piece',
            {'unk': 1, 'sos': 2, 'eos': 3, 'pad': 0, 'mask': 4, 'cls': 2, 'sep': 3},
            ['accents', 'runs of spaces', 'line breaks', 'does not know'],
            ['before every'],
        ),
        (
            'unigram',
            {'unk': 0, 'sos': 1, 'eos': 2, 'pad': 2},
            ['ligatures', 'a space at the beginning', 'does not know'],
            ['accents'],
        ),
    ],
)
def test_special_tokens_and_losses_of_known_tokenizers(tmp_path, kind, special, lost, kept):
    tokenizer = Tokenizer.load(foreign.KINDS[kind](tmp_path))
    assert tokenizer.special_ids == special
    said = '\n'.join(tokenizer.losses)
    assert all(word in said for word in lost)
    assert not any(word in said for word in kept)


def test_what_it_lacks_is_appended_for_the_asking(tmp_path):
    path = foreign.sentence_piece(tmp_path / 'a.model')
    plain, more = Tokenizer.load(path), Tokenizer.load(path, append_special_tokens=True)
    added = ['<pad>', '<mask>', '<cls>', '<sep>', *(f'<reserved_{i}>' for i in range(5))]
    assert list(more.appended) == added
    assert [more[piece] for piece in added] == list(range(len(plain), len(more)))
    assert more.special_ids == {**plain.special_ids, 'pad': len(plain)} | {
        role: len(plain) + i for i, role in enumerate(('pad', 'mask', 'cls', 'sep'))
    }
    ids = more.encode(TEXTS[0])
    assert ids == plain.encode(TEXTS[0])
    assert more.decode([len(plain), *ids, len(more) - 1]) == plain.decode(ids)
    assert Tokenizer.from_bytes(more.data).special_ids == more.special_ids
    gpt = Tokenizer.load(foreign.byte_level(tmp_path / 'b.json'), append_special_tokens=True)
    assert (gpt.special_ids['eos'], gpt.sos_token, gpt.pad_token) == (0, '<sos>', '<pad>')


def test_special_tokens_are_named_by_setting_or_by_the_files_beside_it(tmp_path):
    names = ('<|a|>', '<|b|>', '<|c|>')
    path = foreign.byte_level(tmp_path / 'named.json', special=names)
    with pytest.raises(ValueError, match=r"no token that is known to end a text.*'<\|a\|>', '<\|b\|>', '<\|c\|>'"):
        Tokenizer.load(path)
    with pytest.raises(ValueError, match=r"has no token '<x>' to be eos; its special tokens are '<\|a\|>'"):
        Tokenizer.load(path, {'eos': '<x>'})
    with pytest.raises(ValueError, match=r"names a token for 'end'; the roles are unk, sos, eos, pad"):
        Tokenizer.load(path, {'end': '<|a|>'})
    assert Tokenizer.load(path, {'eos': '<|b|>', 'pad': '<|c|>'}).special_ids == {'sos': 1, 'eos': 1, 'pad': 2}
    folder = foreign.folder_of(path, bos_token='<|a|>', eos_token={'content': '<|c|>'}, pad_token=None)
    assert Tokenizer.load(folder).special_ids == {'sos': 0, 'eos': 2, 'pad': 2}
    assert Tokenizer.load(folder, {'eos': '<|b|>'}).special_ids == {'sos': 0, 'eos': 1, 'pad': 1}
    packed = Tokenizer.load(folder).data
    (tmp_path / 'packed').write_bytes(packed)
    with pytest.raises(ValueError, match=r"special_tokens.eos is '<\|b\|>', but .* has '<\|c\|>', which is fixed"):
        Tokenizer.load(tmp_path / 'packed', {'eos': '<|b|>'})


def test_two_known_names_are_not_guessed_between(tmp_path):
    path = foreign.byte_level(tmp_path / 'two.json', special=['<s>', '</s>', '<|endoftext|>'])
    with pytest.raises(ValueError, match=r"'</s>', '<\|endoftext\|>', and nothing says which of them is its eos"):
        Tokenizer.load(path)


def test_a_model_without_an_end_of_text_is_refused_or_given_one(tmp_path):
    path = foreign.sentence_piece(tmp_path / 'none.model', bos_id=-1, eos_id=-1)
    with pytest.raises(
        ValueError, match=r'no token that is known to end a text.* none; name one.*append_special_tokens'
    ):
        Tokenizer.load(path)
    tokenizer = Tokenizer.load(path, append_special_tokens=True)
    assert tokenizer.special_ids['sos'] == tokenizer.special_ids['eos'] - 1 == len(tokenizer) - len(tokenizer.appended)


def test_a_named_token_that_texts_could_spell_is_never_made_by_one(tmp_path):
    path = foreign.sentence_piece(tmp_path / 'user.model', user_defined_symbols=['<end>'], eos_id=-1)
    tokenizer = Tokenizer.load(path, {'eos': '<end>'})
    assert tokenizer['<end>'] not in tokenizer.encode('the<end>cat')
    assert tokenizer.decode([tokenizer['<end>']]) == ''


@pytest.mark.parametrize('kind', ['unigram', 'byte_level'])
def test_damage_is_refused_by_name(tmp_path, kind):
    path = foreign.KINDS[kind](tmp_path)
    data, packed = path.read_bytes(), Tokenizer.load(path).data
    cut = tmp_path / 'cut'
    for n in [0, 1, len(data) // 3, len(data) // 2, len(data) - 1]:
        cut.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r'cut'):
            Tokenizer.load(cut)
    for place in (25, 60, len(packed) // 2, len(packed) - 1):
        changed = bytearray(packed)
        changed[place] ^= 4
        with pytest.raises(ValueError, match=r'^tokenizer is damaged'):
            Tokenizer.from_bytes(bytes(changed))


@pytest.mark.parametrize('field', [2, 3])
def test_a_model_that_was_cut_between_two_pieces_is_refused(tmp_path, field):
    data = without_field(foreign.sentence_piece(tmp_path / 'a.model').read_bytes(), field)
    with pytest.raises(ValueError, match='cut short or damaged'):
        Tokenizer.from_bytes(data)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{}', 'has no model'),
        ('{"model": 3}', 'has no model'),
        ('{"model": {"type": "BPE"}', 'no JSON'),
        ('{"model": ' + '[' * 100_000, 'no JSON'),
        ('{"model": ' + '{"a": ' * 40 + '1' + '}' * 41, 'nested more than 32 deep'),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', 'has 0 ids'),
        ('{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}', 'has 4,294,967,296 ids'),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}', 'cannot|can use'),
        ('{"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "x"}}', 'can use'),
        ('{"auto_map": "evil.Tokenizer", "model": {"type": "os.system"}}', 'can use'),
    ],
)
def test_a_json_file_that_is_no_tokenizer_is_refused(tmp_path, content, message):
    pytest.importorskip('tokenizers')
    path = tmp_path / 'bad.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=rf'bad\.json .*{message}'):
        Tokenizer.load(path)


def test_dropout_truncation_and_padding_of_a_file_are_left_out(tmp_path):
    path = foreign.byte_level(tmp_path / 'd.json')
    content = json.loads(path.read_text())
    before = Tokenizer.load(path).encode(TEXTS[0] * 9)
    content['model']['dropout'] = 0.9
    content['truncation'] = {'max_length': 3, 'strategy': 'LongestFirst', 'stride': 0, 'direction': 'Right'}
    content['padding'] = {
        'strategy': {'Fixed': 500},
        'direction': 'Right',
        'pad_to_multiple_of': None,
        'pad_id': 0,
        'pad_type_id': 0,
        'pad_token': '<|endoftext|>',
    }
    path.write_text(json.dumps(content))
    assert Tokenizer.load(path).encode(TEXTS[0] * 9) == before


def test_nothing_beside_a_tokenizer_is_executed(tmp_path):
    (tmp_path / 'evil.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    folder = foreign.folder_of(
        foreign.byte_level(tmp_path / 'model.json'),
        auto_map={'AutoTokenizer': ['evil.Tokenizer', None]},
        tokenizer_class='evil.Tokenizer',
        chat_template="{{ ''.__class__.__mro__ }}",
    )
    (folder / 'evil.py').write_text((tmp_path / 'evil.py').read_text())
    assert Tokenizer.load(folder).eos_token == '<|endoftext|>'
    assert not (tmp_path / 'ran').exists()


def test_a_folder_without_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'has none of tokenizer\.json, tokenizer\.model'):
        Tokenizer.load(tmp_path)


def test_the_library_is_asked_for_where_it_is_needed_and_loaded_only_there(tmp_path):
    path = foreign.byte_level(tmp_path / 'level.json')
    code = f"""
import sys, xlabml.tokenizer
print([name for name in ('tokenizers', 'torch', 'numpy', 'transformers') if name in sys.modules])
sys.modules['tokenizers'] = None
try:
    xlabml.tokenizer.Tokenizer.load({str(path)!r})
except ValueError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith('[]\n')
    assert 'pip install "xlabml[hf]"' in printed
