"""Networks of other libraries <-> checkpoints of ours: folders of Hugging Face and sentence-transformers.

Nothing of a folder is executed, unpickled or imported: its JSON files are read as plain values, its weights as
safetensors. `bert` knows the shapes of BERT's family, `sentence_folder` the modules around them.
"""

from .checking import describe_difference
from .exporting import Exported, export_folder
from .importing import Imported, import_folder

__all__ = ['Exported', 'Imported', 'describe_difference', 'export_folder', 'import_folder']
