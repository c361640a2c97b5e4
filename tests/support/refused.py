"""How a configuration is refused: its problems as they are told, and a secret that none of them may hold."""

import pytest

from proxy.config import ConfigInvalid, parse

CANARY = "hunter2-canary"


def problems_of(text: str, **environ: str) -> list[str]:
    """All that is said against this configuration."""
    with pytest.raises(ConfigInvalid) as refused:
        parse(text, "c.yaml", environ)
    return refused.value.problems


def only_problem_of(text: str, **environ: str) -> str:
    """What is said against a configuration with one fault."""
    (problem,) = problems_of(text, **environ)
    return problem
