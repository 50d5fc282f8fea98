"""verl's dynamic sampling by the objective: a group is replaced if none of its advantages differs from zero.

verl's own filter replaces groups whose rewards are all equal, which is right for the mean. Under ``max@2`` the group
[1, 1, 1, 0] has no signal either, and rewards that differ only by rounding have none under any objective.

`ordergrad.adapters.verl.check` sets these classes as verl's custom sampler where ``algorithm.filter_groups`` is enabled
for the metric ``reward``; nobody needs to name them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from collections import Counter
from typing import Any

import numpy as np

from ordergrad.extras import extra

with extra("verl"):
    import transfer_queue
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

    from ordergrad.adapters.completions import groups_with_signal
    from ordergrad.adapters.verl import session_rows

__all__ = ["ObjectiveReplayBuffer", "ObjectiveReplayBufferAsync"]


class _ByObjective:
    """Classify finished groups by the objective in ``sampler_kwargs.ordergrad``."""

    partitions: dict[str, dict[str, Any]]
    finished_keys: dict[str, set[str]]
    _dapo_classification_cache: dict[str, dict[str, float | None]]

    def __init__(self, *, sampler_kwargs: Any, **named: Any) -> None:
        own = sampler_kwargs["ordergrad"]
        self.objective, self.small = own["objective"], own["small"]
        super().__init__(  # pyright: ignore[reportCallIssue]
            sampler_kwargs=sampler_kwargs, filter_groups_metric="reward", **own["buffer"], **named
        )

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter[float]]:
        """Return the finished groups without a signal, and how many of them have which mean reward."""
        if partition_id == "val":
            return set(), Counter()
        finished, known = self.finished_keys[partition_id], self._dapo_classification_cache[partition_id]
        for uid in known.keys() - finished:
            del known[uid]
        rows = [key for key in self.partitions[partition_id] if key.split("_")[0] in finished - known.keys()]
        if rows:
            scores = transfer_queue.kv_batch_get(keys=rows, partition_id=partition_id, select_fields=["rm_scores"])
            rewards = np.array([float(score.sum()) for score in scores["rm_scores"]], dtype=np.float32)
            ranked, _ = session_rows(rows, len(rows))
            uids = np.array([rows[i].split("_")[0] for i in ranked])
            signal = groups_with_signal(rewards[ranked], uids.tolist(), self.objective, small=self.small)
            for uid, found in signal.items():
                known[str(uid)] = None if found else float(rewards[ranked][uids == uid].mean())
        without = {uid: mean for uid, mean in known.items() if mean is not None}
        return set(without), Counter(without.values())


class ObjectiveReplayBuffer(_ByObjective, ReplayBuffer):
    """verl's replay buffer for synchronous training."""


class ObjectiveReplayBufferAsync(_ByObjective, ReplayBufferAsync):
    """verl's replay buffer for asynchronous training."""
