"""Groups that span two gloo processes: ``trl_two_processes.py FOLDER``, started once per rank by `test_trl.py`.

Rank 0 writes one JSON object with a record per case to FOLDER/result.json.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl_toy import PROMPTS, compare, expected, make, mean_length, one_step, reference_gradient, samples

OBJECTIVE = "top:2@4"
CASES = {
    "rloo, one group": ("rloo", {"per_device_train_batch_size": 3}),
    "rloo, three groups": ("rloo", {"per_device_train_batch_size": 9}),
    "luspo": ("grpo", {"per_device_train_batch_size": 9}),
    "dr_grpo": ("grpo", {"per_device_train_batch_size": 9, "loss_type": "dr_grpo"}),
    "dapo": ("grpo", {"per_device_train_batch_size": 9, "loss_type": "dapo"}),
    "bnpo": ("grpo", {"per_device_train_batch_size": 9, "loss_type": "bnpo"}),
}


def record(trainer):
    """Return what one step of training did, as seen by all processes."""
    gradient, batches, before = one_step(trainer)
    mine = samples(batches)
    by_rank = gather_object([mine])
    rows = [row for part in by_rank for row in part]
    a = expected(rows, OBJECTIVE)
    cosine, scale = compare(gradient, reference_gradient(before, rows, a))
    tokens = {id(part): sum(len(completion) for _, completion, _ in part) for part in by_rank}
    shares = [len(part) / tokens[id(part)] for part in by_rank for _ in part]
    weighted = reference_gradient(before, rows, a * torch.tensor(shares))
    column = list(trainer._logs["advantages"])
    return {
        "completions": len(rows),
        "spanning": len({p for p, _, _ in by_rank[0]} & {p for p, _, _ in by_rank[1]}),
        "error": max(abs(x - y) for (_, _, x), y in zip(rows, a.tolist(), strict=True)),
        "logged": max(abs(x - y) for x, y in zip(sorted(column), sorted(a.tolist()), strict=True)),
        "cosine": cosine,
        "scale": scale,
        "cosine_per_micro_batch": compare(gradient, weighted)[0],
        "mean_length": mean_length(rows),
        "value": trainer.state.log_history[0]["ordergrad/value"],
    }


def infinite(rank):
    """Return rewards that are infinite on one process only."""
    return lambda completion_ids, **_: [float("inf") if rank else 0.0 for _ in completion_ids]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    result = {}
    for name, (kind, settings) in CASES.items():
        result[name] = record(make(kind, folder, OBJECTIVE, seed=3, **settings))
    trainer = make("rloo", folder, OBJECTIVE, per_device_train_batch_size=3)
    rank = trainer.accelerator.process_index
    trainer.reward_funcs, trainer.reward_func_names = [infinite(rank)], ["broken"]
    try:
        trainer.train()
    except ValueError as error:
        result["infinite"] = gather_object([str(error)])
    trainer = make("rloo", folder, OBJECTIVE, per_device_train_batch_size=9, beta=0.5, model=str(folder / "model"))
    with torch.no_grad():
        next(iter(trainer.ref_model.parameters())).mul_(1.5)
    _, batches, _ = one_step(trainer)
    rows = gather_object([samples(batches)])
    a = expected([row for part in rows for row in part], OBJECTIVE).tolist()
    column = list(trainer._logs["advantages"])
    flat = [x for part in rows for _, _, x in part]
    result["kl"] = {
        "moved": max(abs(x - y) for x, y in zip(flat, a, strict=True)),
        "sum": abs(sum(flat)),
        "logged": max(abs(x - y) for x, y in zip(sorted(flat), sorted(column), strict=True)),
    }
    options = {"k_window": 6, "success": 1.25}
    few = Dataset.from_dict({"prompt": PROMPTS[:3]})
    trainer = make(
        "rloo", folder, "max@5", per_device_train_batch_size=9, max_steps=3, dataset=few, options=options, seed=3
    )
    chosen, k_of = [], trainer.pass_rates.k
    trainer.pass_rates.k = lambda *asked: chosen.append(k_of(*asked)) or chosen[-1]
    trainer.train()
    result["pass rates"] = gather_object([trainer.pass_rates.state_dict()])
    result["own k"] = {
        "k": gather_object([[ks.tolist() for ks in chosen]]),
        "rewards": list(trainer._logs["rewards"]["reward"]),
        "advantages": list(trainer._logs["advantages"]),
        "own advantages": gather_object([a for _, _, a in samples(trainer._buffered_inputs)]),
    }
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(result))
    trainer.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)  # the destructors of gloo and DDP may wait for ever for a process that has already left


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
