"""A stand-in for importing Unsloth, then one step of our trainer. Run as a program: patching TRL lasts.

Unsloth executes the source of TRL's trainer again under the name `_UnslothGRPOTrainer`, derives `UnslothGRPOTrainer`
and `UnslothGRPOConfig`, and replaces TRL's classes by them (`unsloth.models.rl`, read in 2026.10.9).
"""

import inspect
import sys
import types

import trl
import trl.trainer
from trl.trainer import grpo_config, grpo_trainer


def patch() -> None:
    original = grpo_trainer.GRPOTrainer
    source = inspect.getsource(original).replace("class GRPOTrainer", "class _UnslothGRPOTrainer", 1)
    module = types.ModuleType("UnslothGRPOTrainer")
    vars(module).update({name: x for name, x in vars(grpo_trainer).items() if not name.startswith("__")})
    exec(compile(source, "UnslothGRPOTrainer.py", "exec"), vars(module))

    class UnslothGRPOConfig(grpo_config.GRPOConfig):
        pass

    class UnslothGRPOTrainer(module._UnslothGRPOTrainer):
        def __init__(self, model, reward_funcs, args=None, **kwargs):
            super().__init__(model=model, reward_funcs=reward_funcs, args=args, **kwargs)

    for place in (trl, trl.trainer, grpo_trainer):
        place.GRPOTrainer = UnslothGRPOTrainer
        place.GRPOConfig = UnslothGRPOConfig
    grpo_config.GRPOConfig = UnslothGRPOConfig
    assert not issubclass(UnslothGRPOTrainer, original)


if __name__ == "__main__":
    patch()
    import pytest
    from trl_toy import expected, make, one_step, samples

    from ordergrad.adapters.trl import OrderGradGRPOTrainer

    assert issubclass(OrderGradGRPOTrainer, trl.GRPOTrainer)
    trainer = make("grpo", sys.argv[1], "top:2@4")
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    assert [a for _, _, a in rows] == pytest.approx(expected(rows, "top:2@4").tolist(), abs=1e-6)
    assert isinstance(trainer.args, trl.GRPOConfig)
    print("trained by", *(kind.__name__ for kind in type(trainer).__mro__[:4]))
