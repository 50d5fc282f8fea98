"""Goals in plain words, and goals that no objective of ranks serves."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ordergrad.advise.goals import (
    Goal,
    best,
    best_of,
    mean_goal,
    median_goal,
    of_objective,
    quantile,
    rank_of,
    robust,
    spread,
    worst,
    worst_of,
)
from ordergrad.spec import parse
from ordergrad.weights import check_nonzero

UNDERSTOOD = (
    '"pass@16" or "best of 16", "best 10%", "worst 5%", "worst of 8", "all of 8 pass", "majority of 8", "median", '
    '"5% quantile", "robust to outliers", "less spread", "mean", "success rate", "reward >= 5", or an '
    "objective such as cvar:0.1"
)
Make = Callable[..., Goal]


class UnservedError(ValueError):
    """A goal that no objective of ranks serves."""


def read_goal(text: str) -> Goal:
    """Parse a goal in plain words.

    Raises:
        UnservedError: No rank objective serves it; the message says what does.
        ValueError: The words are not understood; the message lists goals that are.

    Example:
        >>> read_goal("worst 5%").target, read_goal("maximise pass@16").target, read_goal("5th percentile").target
        ('cvar:0.05', 'max@16', 'var:0.05')
    """
    words = _plain(text)
    for pattern, reason in _UNSERVED:
        if re.search(pattern, words):
            raise UnservedError(f"no objective of ranks serves {text!r}: {reason}")
    for pattern, make in _PATTERNS:
        match = re.fullmatch(pattern, words)
        if match:
            return make(*match.groups())
    try:
        objective = parse(_ASKING.sub("", text.strip()))
        check_nonzero(objective)
    except ValueError as error:
        raise ValueError(f"goal must be one of {UNDERSTOOD}; got {text!r} ({error})") from error
    return of_objective(objective)


_ASKING = re.compile(
    r"^(?:(?:i want|we want|please|to|a|the|my|our|for|get|have|make|increase|raise|improve|maximi[sz]e|optimi[sz]e)"
    r"(?: |$)|(?:train|optimi[sz]e) (?:for|on) )+",
    re.IGNORECASE,
)


def _plain(text: str) -> str:
    """Return the words of a goal in lower case, with percent signs and without words such as "maximise".

    Example:
        >>> _plain("Maximise the worst 1 percent of returns")
        'worst 1%'
    """
    words = " ".join(re.sub(r"(?<=[a-z])-(?=[a-z\d])|_", " ", text.lower()).split())
    words = re.sub(r" ?(?:percent|per cent|pct)\b| %", "%", words)
    words = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", words)
    for name, share in (("decile", "10%"), ("quartile", "25%"), ("quintile", "20%"), ("tenth", "10%")):
        words = re.sub(rf"\b{name}\b", share, words)
    words = _ASKING.sub("", words)
    return re.sub(r" (?:of|in|over|for) (?:the |all |my )?(?:rewards?|returns?|outcomes?|cases?|episodes?)$", "", words)


def _one(make: Callable[[str], Goal]) -> Make:
    """Return what makes a goal of the one part of a pattern that is there."""

    def goal(*parts: str | None) -> Goal:
        return make(next(filter(None, parts)))

    return goal


def _tail(make: Callable[[str], Goal]) -> Make:
    """Return what makes a goal of a share of the lower tail; 95% is a confidence level, and means the worst 5%."""

    def goal(percent: str) -> Goal:
        return make(percent if float(percent) <= 50 else f"{100 - float(percent):g}")

    return goal


def _all_pass(k: str) -> Goal:
    return replace(worst_of(k), text=f"the chance that all of {int(k)} tries pass", passes=True)


def _majority(k: str) -> Goal:
    need = int(k) // 2 + 1
    text = f"the chance that most of {int(k)} tries pass, at least {need}; a vote by plurality may need fewer"
    return replace(rank_of(need, int(k)), text=text, passes=True)


def _success_rate() -> Goal:
    return replace(mean_goal(), text="the success rate", passes=True)


def _reaches(threshold: str) -> Goal:
    text = f"the chance of a reward of at least {threshold}"
    return replace(mean_goal(), text=text, passes=True, threshold=float(threshold))


def _taken(make: Callable[[str], Goal]) -> Goal:
    """Return a goal that names no share, with 10%."""
    found = make("10")
    return replace(found, text=f"{found.text} (no share was named: say, for instance, worst 5%)")


_NUMBER = r"(\d+(?:\.\d+)?)"
_RUNS = r"(?:tries|runs|attempts|samples|rollouts|episodes|times|seeds)"
_PATTERNS: Sequence[tuple[str, Make]] = (
    (r"(pass) ?@ ?(\d+)", best_of),
    (rf"(?:pass|solve|success) (?:in|within|with|of) (\d+)(?: {_RUNS})?", _one(partial(best_of, "pass"))),
    (rf"(max|best)(?: reward)? ?(?:@|of|over|in) ?(\d+)(?: {_RUNS})?", best_of),
    (rf"(?:min|worst)(?: reward)? ?(?:@|of|over|in) ?(\d+)(?: {_RUNS})?", worst_of),
    (rf"pass ?\^ ?(\d+)|all (?:of )?(\d+)(?: {_RUNS})? (?:pass|succeed|work)", _one(_all_pass)),
    (rf"(?:reliability|reliable|consistency)(?: (?:over|of|in|across) (\d+)(?: {_RUNS})?)", _all_pass),
    (r"reliability|reliable", partial(_all_pass, "4")),
    (rf"(?:majority|maj|cons)(?: vote)?(?: ?@ ?| of | over )(\d+)(?: {_RUNS})?", _majority),
    (rf"(?:worst|bottom|lower|lowest|left tail of) {_NUMBER} ?%|(?:worst|bottom) (\d+) in 100", _one(worst)),
    (
        rf"(?:cvar|cvar at|conditional value at risk|expected shortfall|average value at risk|avar|es|shortfall)"
        rf"(?: at| of)? {_NUMBER} ?%",
        _tail(worst),
    ),
    (rf"{_NUMBER} ?% (?:cvar|expected shortfall|es|shortfall|tail)", _tail(worst)),
    (rf"(?:best|top|upper|highest) {_NUMBER} ?%", best),
    (rf"{_NUMBER} ?% quantile|{_NUMBER} ?%? percentile|p{_NUMBER}", _one(quantile)),
    (rf"(?:var|value at risk)(?: at| of)? {_NUMBER} ?%?", _tail(quantile)),
    (rf"(?:quantile|percentile)(?: at| of)? {_NUMBER} ?%?", quantile),
    (
        r"(?:minimi[sz]e |reduce |lower |less |low |limit )?(?:downside |tail |catastrophic )?risk(?: aversion)?"
        r"|risk averse|safety|safe|safer|avoid (?:disasters?|catastroph\w+|ruin|crashes|failures)|tail|lower tail|cvar"
        r"|robustness|worst case(?: performance)?",
        partial(_taken, worst),
    ),
    (r"upside|best case(?: performance)?|risk seeking|upper tail|exceptional \w+", partial(_taken, best)),
    (r"(?:median|typical)(?: (?:outcome|reward|return|score))?", median_goal),
    (r"robust|robust to outliers|ignore outliers|outliers|noisy rewards?|heavy tailed? noise", robust),
    (
        r"(?:less|low|lower|reduce|minimi[sz]e|small) (?:spread|variance|variation|variability|dispersion|volatility)"
        r"|consistent|consistency|little variation|stable|stability|even(?:ness)?|equal(?:ity)?",
        spread,
    ),
    (
        r"(?:success|pass|solve|win|completion) rate|accuracy|success(?:es)?|probability of success|fewer failures",
        _success_rate,
    ),
    (
        r"(?:chance|probability|share|p)(?: of| that| ?\()? ?(?:a |the )?(?:reward|return|score)?s? ?"
        r"(?:is |are |of )?(?:>=|>|at least|above|over|reaching|exceeds?) ?(-?\d+(?:\.\d+)?)\)?",
        _reaches,
    ),
    (r"(?:reward|return|score) ?(?:>=|>|at least|above|over|of at least) ?(-?\d+(?:\.\d+)?)", _reaches),
    (r"(?:mean|average|expected)(?: (?:reward|return|score|performance))?|rewards?|returns?|performance", mean_goal),
)
_UNSERVED: Sequence[tuple[str, str]] = (
    (
        r"sharpe|sortino|information ratio|calmar",
        "a ratio of two statistics is no weighted sum of ranked rewards. Near to it: 'less spread' (mean-0.5*gini, the "
        "mean less a spread) or 'worst 10%' of returns over longer periods",
    ),
    (
        r"draw ?down",
        "a drawdown is a property of the path of one episode, and ranks compare whole episodes. Make it the reward "
        "(return less a multiple of the episode's largest drawdown), and ask for 'worst 5%' of that",
    ),
    (
        r"divers|variety|novel|mode collapse|entropy|explor",
        "ranks see rewards, not what the samples are. max@8 or pass@8 keeps rare good answers alive; for answers that "
        "differ, put it into the reward (a bonus for unlike answers) or add an entropy bonus",
    ),
    (
        r"\b(?:short|shorter|brief|length|tokens?|latency|faster|speed|costs?|cheap|cheaper)\b",
        "it is a matter of the reward, not of ranks: subtract a price per token (or second) from the reward, and then "
        "choose what should happen to that, such as mean or worst 10%",
    ),
    (
        r"constraint|subject to|at most .* (?:violations?|cost)",
        "a constraint on another quantity needs a multiplier on it: subtract it from the reward with a weight that "
        "rises while it is violated; ranks then apply to the sum",
    ),
    (r"nash|self play|elo|win against", "it depends on an opponent, not on a distribution of rewards alone"),
    (
        r"calibrat|honest|truthful|hallucinat",
        "ranks reward what the reward rewards: use a proper scoring rule as the reward, and 'mean'",
    ),
)
