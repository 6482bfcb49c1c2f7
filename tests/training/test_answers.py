"""Answers of a model: sampled, rated, in batches or one by one, and of a black box."""

import json

import numpy as np
import pytest
import torch

from fedapp.adapters.black_box import BlackBox
from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Decoding, Example
from fedapp.models.answer_file import AnswerFile
from tests import tiny_models

CONFIG = TrainConfig(batch_size=4, max_length=48, max_new_tokens=6, eval_batch_size=4)
PROMPTS = [" ".join(tiny_models.WORDS[i : i + 2 + i % 5]) for i in range(12)]


@pytest.fixture(params=[Reft(rank=3, positions="f2+l2"), Lora(rank=2)], ids=["reft", "lora"])
def model(request):
    return request.param.attach(tiny_models.base(), CONFIG, seed=1)


def test_sampled_answers_follow_the_seed_and_leave_torchs_numbers_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = model.generate(PROMPTS, Decoding(1.0, 1.0, seed=3))
    assert torch.rand(1) == expected
    assert model.generate(PROMPTS, Decoding(1.0, 1.0, seed=3)) == first
    assert model.generate(PROMPTS, Decoding(1.0, 1.0, seed=4)) != first


def test_cold_or_narrow_samples_are_the_greedy_answers(model):
    greedy = model.generate(PROMPTS)
    assert model.generate(PROMPTS, Decoding(1e-4, 1.0, seed=3)) == greedy
    assert model.generate(PROMPTS, Decoding(1.0, 1e-6, seed=3)) == greedy
    assert model.generate(PROMPTS, Decoding(5.0, 1.0, seed=3)) != greedy


def test_an_answers_likelihood_is_its_loss_per_token(model):
    examples = [Example(prompt, " ".join(tiny_models.WORDS[: 1 + i % 3])) for i, prompt in enumerate(PROMPTS)]
    expected = [-model.loss([example]) / (2 + i % 3) for i, example in enumerate(examples)]  # with <eos>
    assert model.log_likelihoods(examples) == pytest.approx(expected, abs=1e-5)


def test_a_black_box_answers_as_the_base_and_cannot_be_changed():
    base = tiny_models.base()
    box = BlackBox().attach(base, CONFIG, seed=1)
    answers = box.generate(PROMPTS)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    example = [Example(PROMPTS[0], "w1")]
    assert np.isnan(box.train(example, np.random.default_rng(0)))  # nothing is trained, nothing scored
    assert box.generate(PROMPTS) == answers
    assert all((before[name] == value).all() for name, value in base.model.state_dict().items())
    with Lora(rank=2).attach(base, CONFIG, seed=1).disabled():
        assert box.generate(PROMPTS) == answers
    assert box.parameters() == {}
    with pytest.raises(ValueError, match="parameter 'w': a black box has no parameters"):
        box.load({"w": np.zeros(1)})


def test_whatever_can_generate_is_a_base():
    class Service:
        def generate(self, prompts):
            return [prompt.upper() for prompt in prompts]

    box = BlackBox().attach(Service(), CONFIG, seed=1)
    assert box.generate(["a", "b"]) == ["A", "B"]
    assert np.isnan(box.train([Example("a", "b")], np.random.default_rng(0)))


def test_answers_may_come_from_a_file(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in (("q", "x"), ("r", "y"))))
    assert AnswerFile(str(file)).generate(["r", "?", "q"]) == ["y", "", "x"]


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "q"}', '{"prompt": "q", "answer": 3}'])
def test_a_line_that_is_no_answer_is_named(tmp_path, line):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "q", "answer": "x"}\n' + line)
    with pytest.raises(ValueError, match="line 2 must"):
        AnswerFile(str(file))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="path=null must be a file"):
        AnswerFile(None)
