import pytest
from torch import nn
from toy_models import Plain, tiny_language_model


@pytest.fixture(params=['plain', 'cached'])
def model(request) -> nn.Module:
    return Plain() if request.param == 'plain' else tiny_language_model()
