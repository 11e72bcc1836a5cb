"""Networks of other libraries <-> checkpoints of ours: folders of Hugging Face and sentence-transformers.

Nothing of a folder is executed, unpickled or imported: its JSON files are read as plain values, its weights as
safetensors. `bert` knows the shapes of BERT's family in our trunk, `sentence_folder` the modules around them;
`decoders` those of Qwen3 and Llama; `pretrained` has a network computed by transformers.
"""

from .checking import describe_difference
from .decoders import describe_same, export_decoder
from .exporting import Exported, export_folder
from .importing import Imported, import_folder
from .pretrained import HUB, fetch_folder, is_pretrained, read_pretrained

__all__ = [
    'HUB',
    'Exported',
    'Imported',
    'describe_difference',
    'describe_same',
    'export_decoder',
    'export_folder',
    'fetch_folder',
    'import_folder',
    'is_pretrained',
    'read_pretrained',
]
