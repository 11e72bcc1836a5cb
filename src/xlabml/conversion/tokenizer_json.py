"""A tokenizer of ours (`train_tokenizer`) as a `tokenizer.json`, which transformers reads without our code.

Its pieces are those of byte-pair encoding with a byte for what has no piece. SentencePiece writes a space as U+2581,
and ours escapes a U+2581 that a text has; here pieces have spaces, so that nothing is to be escaped. The library merges
by rank of a pair, SentencePiece by score of the merged piece: pairs that make one piece have neighbouring ranks.
"""

import json
import random
from collections.abc import Iterator

import sentencepiece

from xlabml.errors import CheckpointError, NotSupportedError
from xlabml.tokenizer import Tokenizer
from xlabml.tokenizer.sentencepieces import SPACE_MARK

from .checking import TEXTS
from .folder import Json

_PROBES = (
    *TEXTS,
    ' a  b\t c\n\n',
    f'{SPACE_MARK} and {SPACE_MARK}{SPACE_MARK}x',
    '<0x41> ByteFallback <0xE2>',
    'e\u0301 \ufb01 \u00a0\ufeff \U0001f469\u200d\U0001f469 \x00',
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa      aaaa',
)
_N_DRAWN = 2000
"""Texts of drawn pieces that are compared."""


def find_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """What of a tokenizer no tokenizer.json expresses: what it is, and what it must be."""
    from xlabml.tokenizer.huggingface import HuggingFaceTokenizer
    from xlabml.tokenizer.tokenizer import OwnTokenizer

    if isinstance(tokenizer, OwnTokenizer):
        return
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        yield f'the tokenizer is of the kind {tokenizer.kind} (own, or a tokenizer.json of Hugging Face)'
    elif tokenizer.appended:
        yield 'the tokenizer has tokens that were put behind it, append_special_tokens (none)'


def tokenizer_content(tokenizer: Tokenizer) -> dict[str, Json]:
    """The content of tokenizer.json; of one of ours with start and end of text around a text, else as in its file."""
    from xlabml.tokenizer.huggingface import HuggingFaceTokenizer

    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return to_tokenizer_json(tokenizer)
    content: dict[str, Json] = json.loads(tokenizer.file.decode('utf-8-sig'))
    return content


def begun_content(tokenizer: Tokenizer) -> dict[str, Json]:
    """The same, with the start of text before a text and nothing behind it: a prompt."""
    begins = _around(tokenizer, has_end=False)
    return {**tokenizer_content(tokenizer), 'truncation': None, 'padding': None, 'post_processor': begins}


def special_pieces(tokenizer: Tokenizer) -> dict[str, Json]:
    """The special tokens by the names of tokenizer_config.json."""
    names = {'sos': 'bos', 'eos': 'eos', 'pad': 'pad', 'unk': 'unk', 'mask': 'mask', 'cls': 'cls', 'sep': 'sep'}
    return {f'{names[role]}_token': tokenizer.piece(id) for role, id in tokenizer.special_ids.items()}


def to_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Json]:
    """The content of a tokenizer.json that encodes as a tokenizer of ours does, start and end of text around it.

    Raises:
        NotSupportedError: The library tokenizers is not installed.
        CheckpointError: It encodes a text in another way.
    """
    pieces = [tokenizer.piece(id).replace(SPACE_MARK, ' ') for id in range(len(tokenizer))]
    ends = tokenizer.special_ids
    special = [id for id in tokenizer.reserved_ids if id not in ends.values()]
    added: Json = [
        {
            'id': id,
            'content': pieces[id],
            'single_word': False,
            'lstrip': False,
            'rstrip': False,
            'normalized': False,
            'special': True,
        }
        for id in sorted({*ends.values(), *special})
    ]
    vocabulary: Json = {piece: id for id, piece in enumerate(pieces)}
    content: dict[str, Json] = {
        'version': '1.0',
        'truncation': None,
        'padding': None,
        'added_tokens': added,
        'normalizer': None,
        'pre_tokenizer': None,
        'post_processor': _around(tokenizer, has_end=True),
        'decoder': {'type': 'Sequence', 'decoders': [{'type': 'ByteFallback'}, {'type': 'Fuse'}]},
        'model': {
            'type': 'BPE',
            'dropout': None,
            'unk_token': pieces[ends['unk']],
            'continuing_subword_prefix': None,
            'end_of_word_suffix': None,
            'fuse_unk': False,
            'byte_fallback': True,
            'ignore_merges': False,
            'vocab': vocabulary,
            'merges': _merges(tokenizer, pieces),
        },
    }
    _check(content, tokenizer)
    return content


def _around(tokenizer: Tokenizer, has_end: bool) -> dict[str, Json]:
    """What puts the start of text before a text, and its end behind it."""
    ids = {role: tokenizer.special_ids[role] for role in ('sos', 'eos')[: 1 + has_end]}
    pieces: list[Json] = [{'SpecialToken': {'id': tokenizer.piece(id), 'type_id': 0}} for id in ids.values()]
    around: list[Json] = [pieces[0], {'Sequence': {'id': 'A', 'type_id': 0}}, *pieces[1:]]
    return {
        'type': 'TemplateProcessing',
        'single': around,
        'pair': [*around, {'Sequence': {'id': 'B', 'type_id': 0}}, *pieces[1:]],
        'special_tokens': {
            tokenizer.piece(id): {'id': tokenizer.piece(id), 'ids': [id], 'tokens': [tokenizer.piece(id)]}
            for id in ids.values()
        },
    }


def _merges(tokenizer: Tokenizer, pieces: list[str]) -> Json:
    """The pairs that are merged, those of the piece with the best score first."""
    scores = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.data)
    learned = [id for id in range(len(tokenizer)) if tokenizer.is_learned(id)]
    known = {pieces[id] for id in learned}
    found: list[Json] = []
    for id in sorted(learned, key=lambda id: (-scores.get_score(id), id)):
        piece = pieces[id]
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found += [[left, right] for left, right in cuts if left in known and right in known]
    return found


def _check(content: dict[str, Json], tokenizer: Tokenizer) -> None:
    """Compare on texts of all kinds, and on pieces that are laid together by chance."""
    try:
        import tokenizers
    except ImportError as error:
        raise NotSupportedError(
            'a tokenizer of ours is compared with its tokenizer.json by the library tokenizers, the extra `hf`: '
            "pip install 'xlabml[hf]'"
        ) from error
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    draw = random.Random(0)
    learned = [tokenizer.piece(id).replace(SPACE_MARK, ' ') for id in range(len(tokenizer)) if tokenizer.is_learned(id)]
    drawn = [''.join(draw.choices(learned, k=draw.randrange(1, 12))) for _ in range(_N_DRAWN)] if learned else []
    for text in (*_PROBES, *drawn):
        ours = [tokenizer.special_ids['sos'], *tokenizer.encode(text), tokenizer.special_ids['eos']]
        found = theirs.encode(text).ids
        if found != ours:
            raise CheckpointError(
                f'the tokenizer cannot be written as a tokenizer.json: of {text[:60]!r} it makes {len(ours)} tokens, '
                f'and the file {len(found)}, or others'
            )
