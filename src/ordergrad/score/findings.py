"""Findings on a log in words, each with its numbers and what to do.

A finding is made only where it holds beyond the 95% interval of its number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ordergrad.runs.statistics import confidence_interval
from ordergrad.runs.tables import number_text
from ordergrad.score.trend import fall_of

Row = Mapping[str, Any]
_NOTABLE, _WASTED, _GAP = 0.05, 0.5, 0.05
_MANY, _FALLEN = 0.2, 0.1
_OUTCOMES = {
    "never": (
        "{share} of the groups have no success in {tries}.",
        "They teach nothing under any objective. More tries for these prompts (--prompts lists them with a group "
        "size), easier prompts first, or partial credit would.",
    ),
    "always": (
        "{share} of the groups pass every one of {tries}.",
        "They teach nothing any more: drop these prompts (--prompts lists them).",
    ),
}


@dataclass(frozen=True)
class Finding:
    """What a log shows, with its numbers, and what to do.

    The kind is ``groups``, ``never``, ``always``, ``signal``, ``generated``, ``format``, ``tries``, ``reliability``,
    ``steps``, ``entropy`` or ``comparison``.
    """

    log: str
    kind: str
    text: str
    advice: str


def findings(results: Mapping[str, Any]) -> list[Finding]:
    """Return the findings on every log of ``results.json``, and on their differences."""
    found = [finding for log in results["logs"] for finding in _of_log(log, results)]
    return found + [finding for row in results["comparisons"] for finding in _of_comparison(row)]


def _of_log(log: Row, results: Mapping[str, Any]) -> list[Finding]:
    objectives = results["objectives"]
    found = [_single(log), *(_outcome(log, name) for name in _OUTCOMES)]
    found += [_generated(log, objectives) or _signal(log, objectives), _format(log, results["success"])]
    found += [_tries(log), _reliability(log), *_steps(log, objectives), _entropy(log)]
    return [finding for finding in found if finding is not None]


def _single(log: Row) -> Finding | None:
    if log["groups"] < 2 or log["largest"] != 1:
        return None
    text = f"Each of the {log['groups']:,} groups has one reward, so nothing is known of several tries."
    advice = (
        "Objectives compare the rewards of a group: sample each prompt several times. If prompts do come several "
        "times, --group names the wrong column; if all rows are of one policy, use --ungrouped."
    )
    return Finding(log["log"], "groups", text, advice)


def _outcome(log: Row, name: str) -> Finding | None:
    """Return which share of the groups never or always pass, if it is notable and groups are large enough to say so."""
    row = next((row for row in log.get("outcomes", ()) if row["outcome"] == name), None)
    if not row or row["low"] is None or row["low"] <= _NOTABLE or log["smallest"] < 2:
        return None
    least, most = log["smallest"], log["largest"]
    tries = f"{least} tries" if least == most else f"{least} to {most} tries"
    text, advice = _OUTCOMES[name]
    return Finding(log["log"], name, text.format(share=_percent(row), tries=tries), advice)


def _signal(log: Row, objectives: Sequence[str]) -> Finding | None:
    """Return how much of the log has no gradient under the objectives, where it is most of it."""
    rows = [row for row in log["signal"] if row["objective"] in objectives and row["groups"] > 1]
    silent = [row for row in rows if row.get("low") is not None and row["low"] > _WASTED]
    if not silent:
        return None
    worst = max(silent, key=lambda row: row["no_signal"])
    names = ", ".join(f"{row['objective']} {row['no_signal']:.0%}" for row in silent)
    text = f"Most groups have no gradient under {names} (95% interval of {worst['objective']} {_interval(worst)})."
    heard = [row for row in rows if row not in silent and row["no_signal"] is not None]
    advice = "Larger groups show more of the tail."
    if heard:
        best = min(heard, key=lambda row: row["no_signal"])
        advice += f" Under {best['objective']} it is {best['no_signal']:.0%}."
    return Finding(log["log"], "signal", text, advice)


def _generated(log: Row, objectives: Sequence[str]) -> Finding | None:
    """Return how much of what was generated is in groups without a gradient, under the objectives where it is much."""
    rows = [row for row in log.get("generated", ()) if row["objective"] in objectives and row["low"] is not None]
    idle = sorted((row for row in rows if row["low"] > _MANY), key=lambda row: -row["value"])
    if not idle:
        return None
    shares = ", ".join(f"{_percent(row)} under {row['objective']}" for row in idle[:3])
    text = f"Share of the generated {log['lengths']} that teach nothing, in groups without a gradient: {shares}."
    least = min(rows, key=lambda row: row["value"])
    advice = f"The least is {least['value']:.0%}, under {least['objective']}. " if least not in idle[:3] else ""
    advice += "--prompts lists the prompts to drop and those to sample more often."
    return Finding(log["log"], "generated", text, advice)


def _format(log: Row, success: float) -> Finding | None:
    """Return which share of the failures have a wrong format, if it is notable."""
    row = next(iter(log.get("formats", ())), None)
    if row is None or row["low"] is None or row["low"] < _NOTABLE:
        return None
    text = f"A wrong format is in {_percent(row)} of all failures (rewards below {success:g}, format aside)."
    advice = "Teach the format first: an example in the prompt, a short supervised warm-up, or a reward of its own."
    return Finding(log["log"], "format", text, advice)


def _entropy(log: Row) -> Finding | None:
    """Return from which step on the outcomes of a group grow alike, if they do."""
    rows = log.get("entropy", ())
    fall = fall_of([row["step"] for row in rows], [row["value"] for row in rows])
    if fall is None or fall.before - fall.after < _FALLEN * fall.before:
        return None
    text = (
        f"From step {fall.start:g} on the entropy of outcomes falls, from {fall.before:.2f} to {fall.after:.2f} bits a "
        f"group at step {fall.end:g} (95% interval of the change {fall.low:.2f} to {fall.high:.2f})."
    )
    if _rises([row for row in log["steps"] if row["objective"] == "mean" and row["error"] is not None]):
        advice = "The mean rises with it: the prompts become too easy to teach much. Add harder ones."
    else:
        advice = (
            "The mean does not rise with it, so the policy narrows: sample at a higher temperature, add an entropy "
            "bonus, or train on max@4 or maxrl, which reward rare successes."
        )
    return Finding(log["log"], "entropy", text, advice)


def _tries(log: Row) -> Finding | None:
    """Return how much better the best of several tries is, where that is much."""
    one, most = _ends(log, "pass")
    if one is None or most is None or most["low"] is None or most["low"] < one["high"] + _GAP:
        return None
    text = f"One try passes {_percent(one)}, one of {most['k']} tries {_percent(most)}."
    advice = f"There is room between them: max@{max(2, min(most['k'] // 2, 8))} trains for it, mean for the first."
    return Finding(log["log"], "tries", text, advice)


def _reliability(log: Row) -> Finding | None:
    """Return how much rarer it is that all of several tries pass, where that is much."""
    one, most = _ends(log, "all")
    if one is None or most is None or most["high"] is None or most["high"] > one["low"] - _GAP or one["low"] < 0.2:
        return None
    text = f"One try passes {_percent(one)}, and all of {most['k']} tries {_percent(most)}."
    k = max(2, min(most["k"] // 2, 8))
    advice = (
        f"For reliability train on 0.5*mean+0.5*min@{k}: min@{k} pays when all of {k} tries pass, and the mean teaches "
        "where few do."
    )
    return Finding(log["log"], "reliability", text, advice)


def _ends(log: Row, curve: str) -> tuple[Row | None, Row | None]:
    """Return the rows of one try and of the most tries that all groups have."""
    rows = [row for row in log["curves"] if row["curve"] == curve and row["groups"] == log["groups"]]
    first = next((row for row in rows if row["k"] == 1 and row["low"] is not None), None)
    return first, rows[-1] if len(rows) > 1 else None


def _steps(log: Row, objectives: Sequence[str]) -> list[Finding]:
    """Return how values changed from the first steps to the last, where they did."""
    found: list[Finding] = []
    for objective in objectives:
        rows = [row for row in log["steps"] if row["objective"] == objective and row["error"] is not None]
        if len(rows) < 2:
            continue
        first, last = rows[0], rows[-1]
        change = last["value"] - first["value"]
        error = (first["error"] ** 2 + last["error"] ** 2) ** 0.5
        if error == 0 or abs(change) < 2.2 * error:
            continue
        word = "rose" if change > 0 else "fell"
        half = confidence_interval(0.0, error, 1)[1]
        text = (
            f"{objective} {word} from {number_text(first['value'], 3)} at step {first['step']:g} to "
            f"{number_text(last['value'], 3)} at step {last['step']:g} (change {number_text(change, 2, '+')} ± "
            f"{number_text(half, 2)})."
        )
        advice = "The values of the whole log mix policies: read those of the last step, or use --where step=..."
        found.append(Finding(log["log"], "steps", text, advice))
    return found[:2]


def _rises(rows: Sequence[Row]) -> bool:
    """Return whether the last value lies above the first beyond their errors."""
    if len(rows) < 2:
        return False
    first, last = rows[0], rows[-1]
    error = (first["error"] ** 2 + last["error"] ** 2) ** 0.5
    return confidence_interval(last["value"] - first["value"], error, 1)[0] > 0


def _of_comparison(row: Row) -> list[Finding]:
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return []
    word = "higher" if row["difference"] > 0 else "lower"
    text = (
        f"{row['objective']} is {number_text(abs(row['difference']), 3)} {word} than in {row['against']} (95% interval "
        f"of the difference {_interval(row, share=False)}; p = {number_text(row['p_value'], 2)})."
    )
    pairs = f"Over {row['pairs']:,} prompts that both have." if row["method"] == "paired" else "No prompts in common."
    return [Finding(row["log"], "comparison", text, pairs)]


def _percent(row: Row) -> str:
    return f"{row['value']:.0%} ({_interval(row)})"


def _interval(row: Row, share: bool = True) -> str:
    form = "{:.0%} to {:.0%}" if share else "{:.3g} to {:.3g}"
    return form.format(row["low"], row["high"])
