"""Write the logs in tests/commands/logs with verifiers itself (0.4.0 when they were made).

    pip install verifiers && python tests/support/verifiers_logs.py

``verifiers/traces.jsonl`` is what an evaluation writes (`write_episode`); ``prime_rl/rollouts`` is what prime-rl's file
monitor writes: `Episode.to_record`, one a line, under ``step_N/{train,eval}/{all,effective}``.
"""

import json
from pathlib import Path

import numpy as np
import verifiers.v1 as vf
from verifiers.v1.utils.trace_store import write_episode

LOGS = Path(__file__).parents[1] / "commands/logs"


def episode(task: int, correct: float, style: float, tokens: int, ok: bool = True) -> vf.Episode:
    """Return one episode of one agent, with two rewards, and a judge whose trace trains nothing."""
    data = vf.TaskData(idx=task, prompt=f"What is {task} + {task}?")
    about = vf.TraceTask(type="Sum", data=data, key=f"sum-{task}")
    message = vf.AssistantMessage(content=str(2 * task))
    node = vf.MessageNode(message=message, sampled=True, token_ids=list(range(tokens)), mask=[True] * tokens)
    trace = vf.Trace(
        task=about,
        agent=vf.AgentInfo(config=vf.AgentConfig(), name="solver"),
        nodes=[node],
        calls=[vf.ModelCall(node=0, usage=vf.Usage(prompt_tokens=9, completion_tokens=tokens))],
        rewards={"correct": vf.Reward(score=correct) if ok else None, "style": vf.Reward(score=style, weight=0.5)},
        is_completed=True,
        ok=ok,
    )
    judge = vf.Trace(
        task=about,
        agent=vf.AgentInfo(config=vf.AgentConfig(), name="judge", trainable=False),
        rewards={"agreement": vf.Reward(score=1.0)},
        is_completed=True,
        ok=True,
    )
    return vf.Episode(env=vf.EnvInfo(id="sums"), task=about, traces=[trace, judge], ok=ok)


def main() -> None:
    rng = np.random.default_rng(0)
    folder = LOGS / "verifiers"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traces.jsonl").write_text("")
    for task in range(3):
        for _ in range(3):
            write_episode(folder, episode(task, float(rng.random() < 0.4), 1.0, int(rng.integers(5, 20))))
    write_episode(folder, episode(2, 0.0, 0.0, 3, ok=False))
    for step in (1, 2):
        for kind in ("train", "eval"):
            lines: list[str] = []
            for task in range(2):
                for _ in range(3):
                    made = episode(task, float(rng.random() < 0.4), 1.0, int(rng.integers(5, 20)))
                    made.traces = made.traces[:1]
                    work = vf.TrainWorkInfo(step=step) if kind == "train" else vf.EvalWorkInfo(step=step)
                    made.group = vf.GroupInfo(id=f"{kind}-{step}-{task}")
                    made.record_run(vf.TrainRunInfo(id="run", work=work))
                    lines.append(json.dumps(made.to_record()))
            for subset, count in (("all", 6), ("effective", 3)):
                file = LOGS / f"prime_rl/rollouts/step_{step}/{kind}/{subset}/traces.jsonl"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("\n".join(lines[:count]) + "\n")


if __name__ == "__main__":
    main()
