"""The figure of a ledger: a box for each block, and a cell for each client and round."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Launch
from matplotlib.figure import Figure

from fl_bench.ledger import chain, figure

SMALL = ("task=mnist", "num_rounds=3", "local.steps=1", "data=synthetic", "data.num_samples=200", "ledger=signed")


@pytest.mark.parametrize(("clients", "many"), [(4, 10), (60, 2)])
def test_what_is_drawn(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clients: int, many: int
) -> None:
    kept: dict[str, Figure] = {}
    monkeypatch.setattr(figure, "save", lambda drawn, folder, name: kept.update({name: drawn}))
    monkeypatch.setattr(figure, "MANY_BLOCKS", many)
    run = launch(*SMALL, f"num_clients={clients}", "network=flaky", "network.dropout=0.4")
    figure.chain_of_blocks(run)
    top, bottom = kept["ledger"].axes
    blocks = [chain.read(run / "ledger", round) for round in range(4)]
    boxes = [text.get_text() for text in top.texts if text.get_text()]
    if many > 2:
        assert [box.split()[:3] for box in boxes] == [["block", str(b.round), b.digest[:8]] for b in blocks]
    else:
        assert boxes == [blocks[0].digest[:8], blocks[3].digest[:8]]
    legend = bottom.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["signed an update", "dropped"]
    signed = [len(block.updates) for block in blocks]
    if clients == 60:  # a bar for each status and round
        heights = [patch.get_window_extent().height for patch in bottom.patches[:4]]
        assert heights == pytest.approx([count * max(heights) / max(signed) for count in signed])
    else:
        cells = bottom.collections[0].get_array()
        assert cells is not None
        assert [(column == 0).sum() for column in np.ma.filled(cells, -1).T] == signed
        assert len(bottom.texts) == sum(signed)
