"""Pictures of classifiers show what they are given."""

import numpy as np

from xlabml.reports.class_plots import draw_confusion, draw_reliability


def test_confidence_stands_against_accuracy_with_its_interval():
    n = np.array([0.0, 4.0, 100.0])
    figure = draw_reliability(n, np.array([0.0, 0.5, 0.9]), np.array([0.0, 0.75, 0.8]), (0.1, 0.05), 'val')
    panel, below = figure.axes
    points, (bars,) = panel.containers[0].lines[0], panel.containers[0].lines[2]
    assert points.get_xydata().tolist() == [[0.5, 0.75], [0.9, 0.8]]
    (low, high), (few_low, few_high) = (segment[:, 1] for segment in bars.get_segments()[::-1])
    # Wilson's interval of 80 of 100, by hand.
    assert np.round([low, high], 3).tolist() == [0.711, 0.867]
    assert few_high - few_low > high - low
    assert [bar.get_height() for bar in below.patches] == n.tolist()
    assert panel.get_title() == 'val: calibration error 0.100 (of a perfect one 0.050)'


def test_classes_that_are_taken_for_others_stand_in_their_rows():
    confusion = np.array([[8, 2], [0, 5]])
    figure = draw_confusion(confusion, ['a', 'a name that is rather long'], 'test')
    panel = figure.axes[0]
    assert panel.images[0].get_array().tolist() == [[0.8, 0.2], [0, 1]]
    assert {(text.get_position(), text.get_text()) for text in panel.texts} == {
        ((0, 0), '8'),
        ((1, 0), '2'),
        ((1, 1), '5'),
    }
    assert [label.get_text() for label in panel.get_yticklabels()] == ['a', 'a name that is ra…']
    assert panel.get_title() == 'test: 13 of 15 right'
    many = draw_confusion(np.eye(50, dtype=np.int64), [str(i) for i in range(50)], 'test').axes[0]
    assert not many.texts
