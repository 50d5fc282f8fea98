"""Trainers that build on TRL's, by stand-ins: Unsloth needs a GPU, Axolotl pins another TRL."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="trl is not installed")

SUPPORT = Path(__file__).parents[1] / "support"


def test_the_mixin_holds_under_unsloths_trainer(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SUPPORT / "unsloth_standin.py", tmp_path],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "trained by OrderGradGRPOTrainer OrderGradMixin UnslothGRPOTrainer _UnslothGRPOTrainer" in done.stdout


@pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
def test_axolotl_builds_a_trainer_with_the_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import GRPOTrainer
    from trl_toy import expected, language_model, make, one_step, prompts, reward, samples, tokenizer

    class AxolotlGRPOTrainer(GRPOTrainer):
        pass

    axolotl = SimpleNamespace(AxolotlGRPOTrainer=AxolotlGRPOTrainer)
    monkeypatch.setitem(sys.modules, "axolotl.core.trainers.grpo.trainer", axolotl)
    page = (SUPPORT.parents[1] / "docs" / "adapters" / "axolotl.md").read_text()
    code = page.split("```py\n")[1].split("```")[0]
    namespace: dict = {"__name__": "ordergrad_axolotl"}
    exec(code, namespace)
    assert "trainer_cls: ordergrad_axolotl.Trainer" in page
    args = make("grpo", tmp_path, "mean").args  # what Axolotl makes of the YAML: a GRPOConfig without an objective
    trainer = namespace["Trainer"](  # as HFRLTrainerBuilder.build calls it
        language_model(),
        [reward],
        args=args,
        train_dataset=prompts(),
        callbacks=[],
        processing_class=tokenizer(),
    )
    assert isinstance(trainer, AxolotlGRPOTrainer)
    _, batches, _ = one_step(trainer)
    rows = samples(batches)
    assert [a for _, _, a in rows] == pytest.approx(expected(rows, "top:2@4").tolist(), abs=1e-6)
