"""Every profile that the documentation shows is one that ftcore accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pages import Block, blocks

from ftcore import load_profile
from ftcore.preflight import CORE_TABLES

TABLES = {*CORE_TABLES, "plugin"}
SHOWN = list(blocks("toml"))


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_block_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", [b for b in SHOWN if tomllib.loads(b.text).keys() <= TABLES], ids=str)
def test_profile_is_accepted(block: Block, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(block.text, "utf-8")
    assert load_profile(profile).run_name


def test_there_are_profiles() -> None:
    assert len([block for block in SHOWN if "[plugin." in block.text]) >= 3
