"""GRPO on rollouts as a user runs it: the reward rises, a restart goes on exactly, a reward that raises says where."""

import json

import pytest
from runs import committed, lines, same_bits

MODULE = """
def letters(record, answer):
    return sum(c == record["letter"] for c in answer) / max(1, len(answer))

def broken(record, answer):
    raise ValueError("no")
"""

FLAGS = (
    "--config.objective={'name': 'grpo', 'kl': 0.01}",
    "--config.data.source={'name': 'rollouts', 'prompts': 'prompts.jsonl', 'reward': 'rewards:letters', 'tokens': 8,"
    " 'group': 8}",
    "--module=rewards.py",
    "--config.data.batch_size=16",
    "--config.data.lanes=1",
    "--config.evaluators={}",
    "--config.checkpoint.best_metric=",
    "--config.optimizer.schedule=constant",
    "--config.model.dropout=0.0",
)


@pytest.fixture
def train(program, tmp_path):
    (tmp_path / "rewards.py").write_text(MODULE)
    prompts = [{"prompt": f"Write {i}:", "letter": "e"} for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in prompts))

    def run(name, steps, *flags, **options):
        return program.train(
            tmp_path / name, *FLAGS, f"--config.steps={steps}", "--config.checkpoint.every=2", *flags, **options
        )

    return run


def test_rollouts_go_on_exactly_and_a_reward_that_raises_says_where(train, tmp_path):
    train("whole", 4)
    train("parts", 2)
    train("parts", 4)
    same_bits(committed(tmp_path / "parts", 4), committed(tmp_path / "whole", 4))
    logged = lines(tmp_path / "whole")[-1]
    assert {"train/reward", "train/kl", "train/clipped", "train/answer_length"} <= logged.keys() or {
        "reward",
        "kl",
    } <= logged.keys()
    broken = "--config.data.source.reward=rewards:broken"
    _, err = train("broken", 2, broken, status=2)
    assert "rewards:broken raised ValueError (no) for the answer" in err and "to prompt" in err
    _, err = train("none", 2, "--config.data.source.reward=rewards:absent", status=2)
    assert "data.source.reward: there is no rewards:absent" in err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_grpo_raises_the_reward(train, tmp_path, seed):
    train(
        "long", 150, f"--config.seed={seed}", "--config.optimizer.learning_rate=0.01", "--config.checkpoint.every=150"
    )
    key = next(key for key in lines(tmp_path / "long")[0] if key.endswith("reward"))
    rewards = [line[key] for line in lines(tmp_path / "long") if key in line]
    first, last = sum(rewards[:10]) / 10, sum(rewards[-10:]) / 10
    assert last > first + 0.2, (first, last)
