# SPDX-License-Identifier: Apache-2.0
"""Every part of a detector can be called as its protocol says."""

import inspect

import pytest

from dino_d2 import modeling
from dino_d2.layers import PointPositions, RowColumnPositions, SinePositionEncoding
from dino_d2.modeling import contracts


def exported(*endings):
    return [getattr(modeling, name) for name in modeling.__all__ if name.endswith(endings) and name not in endings]


SOURCES = exported("Queries", "QuerySelection")
PARTS = {
    contracts.Backbone: exported("Backbone"),
    contracts.Neck: [modeling.ChannelMapper, modeling.Projection],
    contracts.PositionEncoding: [SinePositionEncoding, PointPositions, RowColumnPositions],
    contracts.Encoder: exported("Encoder"),
    contracts.QuerySource: SOURCES,
    contracts.DenoisedQuerySource: [source for source in SOURCES if hasattr(source, "denoising_anchors")],
    contracts.LabelContent: [*exported("LabelEmbedding"), modeling.LabelEmbedding],
    contracts.Decoder: exported("Decoder"),
}
#: Query sources that detectors without denoising have.
PLAIN_SOURCES = {modeling.EmbeddedQueries, modeling.ReferencePointQueries, modeling.TwoStageQueries}


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def methods(protocol):
    """Methods that a protocol or one that it extends asks for."""
    bases = [base for base in protocol.__mro__ if base.__module__ == contracts.__name__]
    names = {name for base in bases for name in vars(base) if not name.startswith("_") or name == "__call__"}
    return {name: getattr(protocol, name) for name in names}


@pytest.mark.parametrize(
    ("protocol", "part"),
    [
        pytest.param(protocol, part, id=f"{part.__name__} as {protocol.__name__}")
        for protocol, parts in PARTS.items()
        for part in parts
    ],
)
def test_a_part_takes_what_its_protocol_gives(protocol, part):
    assert methods(protocol)
    for name, method in methods(protocol).items():
        own = part.forward if name == "__call__" else getattr(part, name)
        assert len(parameters(own)) == len(parameters(method)), f"{part.__name__}.{name} takes {parameters(own)}"


def test_only_these_query_sources_cannot_denoise():
    assert set(SOURCES) - set(PARTS[contracts.DenoisedQuerySource]) == PLAIN_SOURCES
