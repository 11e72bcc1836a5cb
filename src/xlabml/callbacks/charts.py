"""The charts of TensorBoard's tab CUSTOM SCALARS: the loss first, train and val in one chart."""

import re
from collections.abc import Iterable, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent

from xlabml.telemetry.tags import SPLITS

_FIRST = ('loss', 'bits_per_byte', 'accuracy')
_OTHERS = {
    'speed': {
        'tokens per second': 'speed/tokens_per_second',
        'MFU': 'speed/mfu_ratio',
        'parts of a step (seconds)': 'speed/(data|forward|backward|optimizer|other)_seconds',
    },
    'optimizer': {
        'learning rate': 'optimizer/learning_rate/.*',
        'norm of the gradient, and its limit': 'optimizer/(gradient_norm|clip_limit)',
    },
    'memory': {'memory (MiB)': 'memory/.*'},
    'spectra': {
        'stable rank': 'spectra/.*/stable_rank',
        'largest / mean singular value': 'spectra/.*/mean_ratio',
        'largest singular value': 'spectra/.*/top',
    },
}
_CLOSED = ('memory', 'spectra')


def draw_charts(names: Iterable[str]) -> Summary:
    """The layout of the charts, as an event has it.

    Args:
        names: Figures of the first row; those of a split get a chart of all splits.
    """
    figures = [figure for split, _, figure in (name.partition('_') for name in names) if split in SPLITS]
    ordered = [*(name for name in _FIRST if name in figures), *sorted(set(figures) - set(_FIRST))]
    splits = '|'.join(SPLITS)
    charts = {name.replace('_', ' '): f'{re.escape(name)}/({splits})' for name in ordered}
    categories = [_category('loss', charts), *(_category(name, some) for name, some in _OTHERS.items())]
    layout = Layout(category=categories).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout], tensor_shape=TensorShapeProto())
    tag = metadata.CONFIG_SUMMARY_TAG
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))])


def _category(title: str, charts: dict[str, str]) -> Category:
    drawn = [Chart(title=name, multiline=MultilineChartContent(tag=_whole(tags))) for name, tags in charts.items()]
    return Category(title=title, chart=drawn, closed=title in _CLOSED)


def _whole(tags: str) -> Sequence[str]:
    return [f'^{tags}$']
