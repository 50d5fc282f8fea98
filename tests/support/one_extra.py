"""Use what one extra promises, in an environment with nothing but this extra: ``one_extra.py NAME``."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import ordergrad as og


def main_command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "ordergrad", *arguments], check=True)


def none() -> None:
    np.testing.assert_allclose(og.advantages([0.0, 1.0, 5.0], "max@2"), [-4, -4, 8])


def torch() -> None:
    import torch

    rewards = torch.tensor([0.0, 1.0, 5.0], requires_grad=True)
    assert og.advantages(rewards, "max@2").tolist() == [-4, -4, 8]
    og.value(rewards, "max@2").backward()


def jax() -> None:
    import jax

    assert jax.jit(lambda x: og.advantages(x, "max@2"))(jax.numpy.array([0.0, 1.0, 5.0])).tolist() == [-4, -4, 8]


def kernels() -> None:
    import ordergrad.kernels.cpu

    x = np.random.default_rng(0).normal(size=(64, 16))
    np.testing.assert_allclose(og.advantages(x, "mean"), (x - x.mean(1, keepdims=True)) * 16 / 15)
    assert ordergrad.kernels.cpu


def cli() -> None:
    main_command("explain", "cvar:0.1", "max@4")


def score() -> None:
    with Path("log.jsonl").open("w") as file:
        for prompt in range(4):
            for i in range(8):
                file.write(f'{{"prompt": "p{prompt}", "reward": {(prompt + i) % 3}}}\n')
    main_command("score", "log.jsonl", "--group", "prompt", "--reward", "reward")
    main_command("advise", "log.jsonl", "--group", "prompt", "--reward", "reward", "--goal", "max@4")


def ray() -> None:
    import ordergrad.score.ray_data

    assert ordergrad.score.ray_data.score_dataset


def envs() -> None:
    import gymnasium

    import ordergrad.envs

    assert ordergrad.envs
    env = gymnasium.make("ordergrad/GuardedMaze-v0")
    env.reset(seed=0)
    env.step(env.action_space.sample())


def rl() -> None:
    from ordergrad.adapters.sb3 import OrderGradPPO

    OrderGradPPO("MlpPolicy", "CartPole-v1", objective="cvar:0.25", n_steps=256, device="cpu").learn(512)


def llm() -> None:
    from ordergrad.adapters.trl import OrderGradGRPOTrainer

    assert OrderGradGRPOTrainer


def torchrl() -> None:
    from ordergrad.adapters.torchrl import OrderGradAdvantage

    OrderGradAdvantage("cvar:0.1")


def rllib() -> None:
    from ray.rllib.algorithms.ppo import PPOConfig

    from ordergrad.adapters.rllib import use

    use(PPOConfig().environment("CartPole-v1"), "cvar:0.1")


def rsl() -> None:
    from ordergrad.adapters.rsl_rl import OrderGradPPO

    assert OrderGradPPO


def skrl() -> None:
    from ordergrad.adapters.skrl import OrderGradPPO

    assert OrderGradPPO


def botorch() -> None:
    import torch

    from ordergrad.adapters.botorch import OrderGradRiskMeasure

    assert OrderGradRiskMeasure("min@4", n_w=4)(torch.arange(4.0).reshape(1, 4, 1)).item() == 0


def studies() -> None:
    import optax
    import skfolio
    import sympy

    assert all((optax, skfolio, sympy))
    rl()
    botorch()


def docs() -> None:
    subprocess.run(["mkdocs", "--version"], check=True)


if __name__ == "__main__":
    name = sys.argv[1]
    none()
    globals()[name]()
    print(f"extra {name}: works")
