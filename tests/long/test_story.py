"""The README's two minutes, typed word by word: an upstream, Cistern, a pull, no upstream, the same pull."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.process import run

pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.xdist_group("fixed ports")]
ROOT = Path(__file__).parents[2]
STORY = re.compile(r"<!-- story -->(.*)<!-- end of story -->", re.DOTALL)
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


async def test_the_two_minutes_of_the_readme_work_as_typed(tmp_path: Path) -> None:
    """Every command succeeds in order, `cistern images` shows the image whole, and both pulls are the same."""
    found = STORY.search((ROOT / "README.md").read_text())
    assert found is not None
    shutil.rmtree(ROOT / "build/story", ignore_errors=True)
    script = tmp_path / "story.sh"
    script.write_text("set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "".join(BLOCK.findall(found[1])))
    told = (await run("bash", script, cwd=ROOT, timeout_s=300.0)).check().output
    assert "the same, without the upstream" in told
    assert re.search(r"^story\.example/demo/licenses ", told, re.MULTILINE)
    shutil.rmtree(ROOT / "build/story")
