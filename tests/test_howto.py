"""The blocks of docs/functions_howto.md run, one after the other."""

import re
from pathlib import Path

import fokker

PAGE = Path(__file__).parent.parent / "docs" / "functions_howto.md"


def test_the_blocks_of_the_page_run():
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 8
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number}", "exec"), names)
    assert names["functions"].samples.shape == (10, 32) and names["finer"].samples.shape == (10, 96)
    assert names["found"].mean().shape == (32,)
    assert isinstance(names["linear"], fokker.FunctionPosterior)
    assert not isinstance(names["bent"], fokker.FunctionPosterior)  # it does not take the exact update of linear data
    assert names["own"].at().network is names["own"].network and names["scattered"].on_points
    assert names["coarse"].recipe.level_mean == 0.5
    assert names["bumpy"].nodal(names["xi"]).shape == (2, 5)
