"""What the adapters log once: levels that a group cannot hold."""

import logging

import numpy as np
import pytest

import ordergrad as og
from ordergrad.adapters import notes
from ordergrad.adapters.completions import completion_advantages
from ordergrad.adapters.episodes import EpisodeRanking


@pytest.fixture
def logged(caplog, monkeypatch):
    monkeypatch.setattr(notes, "_noted", set())
    notes.note_levels.cache_clear()
    caplog.set_level(logging.INFO, logger=notes.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.name == notes.__name__]


def test_completions_and_episodes(logged):
    rewards, groups = np.arange(16.0), np.repeat([0, 1], 8)
    for _ in range(3):
        completion_advantages(rewards, groups, "cvar:0.01")
        completion_advantages(rewards, groups, "cvar:0.25")
        EpisodeRanking("uppercvar:0.01").advantages(rewards)
    assert logged() == ["in groups of 8, cvar:0.01 is min@7", "in groups of 16, uppercvar:0.01 is max@15"]


def test_a_schedule_and_groups_of_many_sizes_say_it_once(logged):
    for n, t in zip(range(4, 12), np.linspace(0, 1, 8), strict=True):
        notes.note_levels(og.anneal("mean", "cvar:0.02", float(t)), n)
    assert logged() == ["in groups of 5, cvar:0.02 is min@4"]
