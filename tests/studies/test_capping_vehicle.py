"""Return Capping's autonomous vehicle: its rules, the best that is possible, and a small run from start to end."""

import dataclasses
import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import studies

UP, RIGHT, DOWN, LEFT = range(4)
SAFEST = [UP] * 3 + [RIGHT] * 4
CHEAPEST = [RIGHT, UP, RIGHT, RIGHT, RIGHT, UP, UP]
FOLDER = studies.FOLDER / "results" / "capping_vehicle"
CHANCES = [Fraction(2, 5), Fraction(3, 10), Fraction(3, 10)]


@pytest.fixture(scope="module")
def study():
    return studies.load("capping_vehicle")


@pytest.fixture(scope="module")
def vehicle(study):
    from capping import vehicle

    return vehicle


def driven(vehicle, route, count=20_000):
    """Return the returns, last observations and last infos of episodes that take one route."""
    env = vehicle.Vehicles(count)
    env.seed(0)
    assert (env.reset() == 0).all()
    total = np.zeros(count)
    for step, move in enumerate(route):
        obs, rewards, over, infos = env.step(np.full(count, move))
        total += rewards
        if step < len(route) - 1:
            assert not over.any()
            np.testing.assert_allclose(obs[:, 2], -total / 64, rtol=1e-6)
    return total, obs, over, infos


def kinds_of(roads, route):
    junction, kinds = 0, []
    for move in route:
        kinds.append(int(roads.kind[junction, move]))
        junction = roads.target[junction, move]
    return junction, kinds


def chances_of(kinds, costs):
    """Return the probability of every sum of the costs of roads."""
    found = {0: Fraction(1)}
    for kind in kinds:
        found_after = {}
        for (total, chance), (cost, part) in itertools.product(
            found.items(), zip(costs[kind].tolist(), CHANCES, strict=True)
        ):
            found_after[total + cost] = found_after.get(total + cost, 0) + chance * part
        found = found_after
    return found


def tail_of(chances, level):
    """Return the mean of the worst share of the returns, the negative costs."""
    left, total = level, Fraction(0)
    for cost in sorted(chances, reverse=True):
        part = min(left, chances[cost])
        left, total = left - part, total - part * cost
    return total / level


def test_roads_cost_what_their_kind_does(vehicle):
    for route, kinds in ((SAFEST, [3] * 7), (CHEAPEST, [0, 0, 1, 1, 1, 1, 2])):
        total, _, over, infos = driven(vehicle, route)
        assert kinds_of(vehicle.published(), route) == (19, kinds)
        assert over.all()
        assert all(info["reached"] and info["safest"] == (route is SAFEST) for info in infos)
        assert infos[0]["terminal_observation"][:2].tolist() == [4, 3]
        expected = chances_of(kinds, vehicle.COSTS)
        for cost, chance in expected.items():
            assert (total == 80 - cost).mean() == pytest.approx(float(chance), abs=0.015)
        assert set(80 - total) <= set(expected)


def test_the_map_follows_its_rule(vehicle):
    roads = vehicle.published()
    for x, y in itertools.product(range(5), range(4)):
        if x < 4:
            assert roads.kind[5 * y + x, RIGHT] == roads.kind[5 * y + x + 1, LEFT] == y
            assert roads.target[5 * y + x, RIGHT] == 5 * y + x + 1
        if y < 3:
            expected = 3 if x == 0 else 0 if y == 0 else 1 if (x, y) == (4, 1) else 2
            assert roads.kind[5 * y + x, UP] == roads.kind[5 * y + x + 5, DOWN] == expected
            assert roads.target[5 * y + x + 5, DOWN] == 5 * y + x


def test_a_move_out_of_the_grid_takes_the_opposite_road(vehicle):
    roads = vehicle.published()
    for junction, move, back in ((0, DOWN, UP), (0, LEFT, RIGHT), (14, RIGHT, LEFT), (17, UP, DOWN)):
        assert roads.target[junction, move] == roads.target[junction, back]
        assert roads.kind[junction, move] == roads.kind[junction, back]


def test_an_episode_ends_after_32_roads_and_begins_anew(vehicle):
    total, obs, over, infos = driven(vehicle, [UP, DOWN] * 16, 50)
    assert over.all()
    assert not infos[0]["reached"]
    assert ((total >= -32 * 8) & (total <= -32 * 7)).all()
    assert (obs == 0).all()
    assert infos[0]["terminal_observation"] == pytest.approx([0, 0, -total[0] / 64])


def shortfall(vehicle, roads, b, steps, junction=0, cost=0, goal=10):
    """Return the least E[(b - R)+] over all histories, in fractions."""
    if junction == len(roads.kind) - 1:
        return max(b - goal + cost, Fraction(0))
    if steps == 0:
        return max(b + cost, Fraction(0))
    return min(
        sum(
            part * shortfall(vehicle, roads, b, steps - 1, roads.target[junction, move], cost + c, goal)
            for c, part in zip(vehicle.COSTS[roads.kind[junction, move]].tolist(), CHANCES, strict=True)
        )
        for move in range(4)
    )


@pytest.mark.parametrize("level", [Fraction(1, 5), Fraction(1, 2), Fraction(1)])
def test_the_optimum_of_a_small_grid_is_that_of_all_histories(vehicle, level):
    roads = vehicle.make_roads(np.array([[0, 1], [3, 2]]), np.array([[3, 0, 1]]))
    found = vehicle.best_on(roads, float(level), limit=3, goal=10)
    expected = max(b - shortfall(vehicle, roads, Fraction(b), 3) / level for b in range(-54, 11))
    assert found.value(f"cvar:{float(level)}") == pytest.approx(float(expected), abs=1e-9)
    assert found.chances.sum() == pytest.approx(1)
    assert found.driven.sum() <= 3 + 1e-9


def test_what_is_possible_on_the_map_is_attained_by_a_route(study, vehicle):
    roads, found = vehicle.published(), {}
    for ups in itertools.combinations(range(7), 3):
        junction, kinds = kinds_of(roads, route := [UP if i in ups else RIGHT for i in range(7)])
        assert junction == 19
        chances = chances_of(kinds, vehicle.COSTS)
        found[tuple(route)] = [float(80 + tail_of(chances, level)) for level in (Fraction(1), Fraction(1, 5))]
    mean, tail = (max(found, key=lambda route: found[route][i]) for i in range(2))
    assert (list(mean), list(tail)) == (CHEAPEST, SAFEST)
    assert vehicle.best(1.0).value("mean") == pytest.approx(found[mean][0])
    assert vehicle.best(0.2).value("cvar:0.2") == pytest.approx(found[tail][1])
    assert vehicle.best(1.0).value("cvar:0.2") == pytest.approx(found[mean][1])
    first, second = sorted((found[route][1] for route in found), reverse=True)[:2]
    listed = study.routes()
    assert [row["cvar:0.2"] for row in listed[:2]] == pytest.approx([first, second])
    assert (listed[0]["route"], listed[0]["kinds"]) == ("UUURRRR", "3-3-3-3-3-3-3")
    assert sorted(row["mean"] for row in listed) == pytest.approx(sorted(mean for mean, _ in found.values()))


def test_only_two_routes_have_no_better_neighbour_for_the_tail(study):
    tail = {row["route"]: row["cvar:0.2"] for row in study.routes()}

    def neighbours(r):
        return [r[:i] + r[i + 1] + r[i] + r[i + 2 :] for i in range(6) if r[i] != r[i + 1]]

    assert {r for r in tail if tail[r] > max(tail[n] for n in neighbours(r))} == {"UUURRRR", "UURRRUR"}


def test_the_best_policy_drives_the_safest_roads(vehicle):
    roads, best = vehicle.published(), vehicle.best(0.2)
    assert set(roads.kind[best.driven > 0]) == {3}
    assert best.driven.sum() == pytest.approx(7)


def test_a_small_run_is_resumed_and_reported(study, tmp_path, monkeypatch):
    monkeypatch.setattr("capping.contenders.POINTS", 2)
    small = dataclasses.replace(study.FIRST, steps=20_000, fresh=100, epochs=1)
    monkeypatch.setattr(study, "SETTINGS", {"first": small, "fast": dataclasses.replace(small, learning_rate=3e-3)})
    monkeypatch.setattr(study, "TUNED_ON", (100,))
    monkeypatch.setattr(study, "OBJECTIVES", {"mean": "mean", "capping": "cvar:0.2", "at once": "cvar:0.2"})
    arguments = ["--out", str(tmp_path), "--jobs", "1"]
    study.main([*arguments, "--seeds", "1"])
    study.main([*arguments, "--seeds", "2", "--resume"])
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [r["seed"] for r in records] == [0, 0, 0, 1, 1, 1]
    assert len(studies.read(tmp_path / "tuning.csv")) == 6
    rows = {r["method"]: r for r in studies.read(tmp_path / "contenders.csv")}
    assert set(rows) == {"mean", "capping", "at once"}
    assert float(rows["at once"]["best possible"]) == pytest.approx(27.206, abs=1e-3)
    assert {r["against"] for r in studies.read(tmp_path / "leads.csv")} == {"mean", "capping", "at once"}
    assert (tmp_path / "capping_vehicle.png").stat().st_size > 5_000
    study.main([*arguments, "--resume", "--finished"])


def test_contenders_have_the_settings_that_are_best_on_other_seeds(study):
    tried = [r | {"cvar:0.2": float(r["cvar:0.2"])} for r in studies.read(FOLDER / "tuning.csv")]
    expected = {(m, name, str(seed)) for m in study.OBJECTIVES for name in study.SETTINGS for seed in study.TUNED_ON}
    assert {(r["method"], r["settings"], r["seed"]) for r in tried} == expected
    chosen = study.choose([r | {"env": "vehicle"} for r in tried])
    runs = studies.read(FOLDER / "runs.csv")
    assert {r["method"]: r["settings"] for r in runs} == chosen
    assert not {int(r["seed"]) for r in runs} & set(study.TUNED_ON)


def test_the_tables_follow_from_the_runs(study):
    records = [json.loads(line) for line in (FOLDER / "runs.jsonl").read_text().splitlines()]
    for name, rows in (
        ("contenders", study.table(records, {"vehicle": study.FIRST}, study.best_possible)),
        ("leads", study.leads(records, {"vehicle": study.FIRST})),
        ("optimum", study.optimum()),
        ("routes", study.routes()),
    ):
        expected = studies.read(FOLDER / f"{name}.csv")
        assert len(rows) == len(expected)
        for row, other in zip(rows, expected, strict=True):
            for column, value in row.items():
                assert other[column] == str(value) or float(other[column]) == pytest.approx(value, rel=1e-3, abs=1e-3)
