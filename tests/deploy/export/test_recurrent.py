"""Exported recurrent policies remember as the learners do, over whole trials."""

import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.navigation import Navigation2D

import metarl
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.state import nested_tensors
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.errors import SettingsError
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.play import AgentInput
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.rl.trials.varibad import VariBADAlgorithm
from tests.deploy.export.test_adaptation import needs_onnx

MEMORIES = {
    "gru": RL2Algorithm(units=6, embedding=4),
    "attention": RL2Algorithm(
        2, units=6, embedding=4, memory="attention", blocks=2, heads=2, separate_values=True
    ),
    "belief": VariBADAlgorithm(units=6, embedding=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("family", [Bandit, Navigation2D])
def test_a_recurrent_policy_remembers_as_the_learners(family, memory, generator, tmp_path):
    needs_onnx()
    problem = ControlProblem(
        family() if family is Bandit else family(horizon=6),
        generator, PolicyGradientSettings(trajectories=1, clip=0.2), hidden=(5,),
    )  # fmt: skip
    learner = MEMORIES[memory].build(problem)
    export_adaptation(learner, tmp_path / "out")
    found, policy = OnnxAdaptation(tmp_path / "out"), learner.policy
    state = policy.begin({"any": torch.zeros(1)})
    size = learner.family.observation_space.shape[0]
    action = torch.zeros(1, *policy.head.action_shape)
    action = action.long() if policy.num_actions else action
    longest = found.metadata["trial"]["longest"]
    assert longest == (2 * learner.family.horizon if memory == "attention" else None)
    for step in range(min(longest or 12, 40)):
        observation = torch.randn(1, size, generator=generator)
        reward = torch.randn(1, generator=generator) if step else torch.zeros(1)
        ended = torch.tensor([float(step in (4, 8))])
        begun = torch.tensor([float(step > 0)])
        noise = policy.noise((1,), generator)
        played = policy.act(state, AgentInput(observation, action, reward, ended, begun), noise)
        state, action = played.state, played.record.behaviour.mode()
        action = action.clamp(-1, 1) if action.is_floating_point() else action
        own = found.act(observation[0].numpy(), float(reward), bool(ended))
        np.testing.assert_allclose(own, action[0].detach().numpy(), rtol=1e-5, atol=1e-5)
        for value, wanted in zip(found.state.values(), nested_tensors(state).values(), strict=True):
            np.testing.assert_allclose(value, wanted[0].detach(), rtol=1e-5, atol=1e-5)
    if memory == "attention" and step + 1 == longest:
        check_end_of_trial(policy, state, found, observation)
    with pytest.raises(SettingsError, match="adapts by acting"):
        found.adapt(inputs=observation)
    with pytest.raises(SettingsError, match="adapts by its memory"):
        metarl.load(tmp_path / "out").save(tmp_path / "adapted.safetensors")
    check_questions(tmp_path / "out", np.ones(size))


def test_a_program_of_torch_keeps_no_earlier_steps(generator, tmp_path):
    problem = ControlProblem(
        Navigation2D(horizon=6), generator, PolicyGradientSettings(trajectories=1, clip=0.2),
        hidden=(5,),
    )  # fmt: skip
    learner = MEMORIES["gru"].build(problem)
    export_adaptation(learner, tmp_path / "out", "torch")
    program = torch.export.load(tmp_path / "out" / "act.pt2").module()
    zero, state = torch.zeros(()), torch.zeros(6)
    for _ in range(2):
        action, *_, state = program(
            state, torch.ones(2), torch.zeros(2), zero, zero, zero, torch.zeros(2)
        )
    assert not (action.requires_grad or state.requires_grad)
    assert all(p.requires_grad for p in learner.policy.parameters())  # the learner trains on


def check_questions(folder, observation):
    """Checks that asking for an action twice is one step."""
    adapter, found = metarl.load(folder, explore=False), []
    for times in 1, 2:
        adapter.reset()
        for step in range(3):
            for _ in range(times):
                action = adapter.act(step * observation)
            adapter.observe((step + 1) * observation, action, 1.0, False, False)
        assert adapter.program.steps == 3
        found.append(adapter.act(3 * observation))
    np.testing.assert_array_equal(*found)


def check_end_of_trial(policy, state, found, observation):
    """Checks that torch, the export and its graph alone refuse another step."""
    zero = torch.zeros(1)
    action = torch.zeros(1, *policy.head.action_shape)
    more = AgentInput(observation, action, zero, zero, zero + 1)
    with pytest.raises(SettingsError, match="trials of at most 12 steps"):
        policy.act(state, more, policy.noise((1,), torch.Generator()))
    with pytest.raises(SettingsError, match="at most 12 steps"):
        found.act(observation[0].numpy())
    found.steps = 0
    with pytest.raises(Exception, match="invalid index"):
        found.act(observation[0].numpy())
    found.reset()
    found.act(observation[0].numpy())
